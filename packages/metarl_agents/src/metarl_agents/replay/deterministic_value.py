"""Twin delayed deterministic policy gradient (TD3): configuration, networks and losses shared by agents.

Fujimoto, van Hoof, Meger 2018 (arXiv:1802.09477) as in Meta-Q-Learning's released code. The
file of each agent states the order of its steps and the inputs of its networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tianshou.data import CollectStats
from torch import Tensor

from metarl_agents.common.config import OffPolicyConfig
from metarl_agents.networks.perceptrons import TwinCritic
from metarl_agents.replay.algorithm import MetaOffPolicyAlgorithm, TMetaPolicy
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.collector import Schedule, Stage


@dataclass(frozen=True)
class DeterministicConfig(OffPolicyConfig):
    """Settings of agents built on TD3; the defaults are MQL's for MetaHalfCheetah-Vel.

    Attributes:
        steps_per_task: minimum number of steps collected on each visited task; the last episode
            is completed, so 1 means one episode.
        initial_cut: time limit of the episodes with uniformly random actions before training, in
            steps; 0 for that of the family.
        exploration_noise: standard deviation of the noise on actions during collection.
        target_noise: standard deviation of the noise on the actions of the target policy.
        target_noise_clip: bound of that noise.
        policy_every: critic steps per step of the actor and of the target networks.
        small_buffer: while fewer transitions than this are stored, an iteration has as many gradient
            steps as its mean episode has steps, instead of `updates_per_iteration`; 0 for never.
    """

    initial_steps: int = 500
    tasks_per_iteration: int = 1
    updates_per_iteration: int = 200
    num_simulations: int = 20
    capacity_per_task: int = 10_000
    hidden: tuple[int, ...] = (300, 300)
    learning_rate: float = 1e-3
    evaluation_protocols: tuple[str, ...] = ("mql",)
    steps_per_task: int = 1
    initial_cut: int = 50
    exploration_noise: float = 0.3
    target_noise: float = 0.3
    target_noise_clip: float = 0.5
    policy_every: int = 2
    small_buffer: int = 100_000

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *OffPolicyConfig.may_be_zero,
        "initial_cut",
        "exploration_noise",
        "target_noise",
        "target_noise_clip",
        "small_buffer",
    )

    def gradient_steps(self, buffer: TaskReplayBuffer, collected: CollectStats) -> int:
        """Gradient steps after a collection; at least one."""
        if len(buffer) < self.small_buffer:
            mean_length: float = collected.n_collected_steps / collected.n_collected_episodes
            return max(1, round(mean_length))
        return self.updates_per_iteration


class DelayedAlgorithm(MetaOffPolicyAlgorithm[TMetaPolicy]):
    """Base class of algorithms that update the actor and target networks once per several critic steps.

    Args:
        policy: the policy.
        config: the configuration.
        generator: random generator of the updates, on the device of the networks.
    """

    observe_task: ClassVar[bool] = False
    loss_names = ("critic_loss", "target_value", "policy_value")

    def __init__(
        self, *, policy: TMetaPolicy, config: DeterministicConfig, generator: torch.Generator
    ) -> None:
        super().__init__(
            policy=policy,
            training_reward=config.training_reward,
            report_every=config.updates_per_iteration,
            generator=generator,
        )
        self.config = config
        self.updates = 0
        self.policy_value = torch.zeros((), device=self.device)

    @staticmethod
    def schedule(config: DeterministicConfig) -> Schedule:
        """Random actions on every task, then episodes of the visited tasks with exploration noise."""
        return Schedule(
            initial=(
                Stage(config.initial_steps, "random", to_context=False, cut=config.initial_cut or None),
            ),
            iteration=(Stage(config.steps_per_task, "exploring", to_context=False),),
        )

    def gradient_steps(self, buffer: TaskReplayBuffer, collected: CollectStats) -> int:
        """See `DeterministicConfig.small_buffer`."""
        return self.config.gradient_steps(buffer, collected)

    def begin_updates(self) -> None:
        """Restarts the delay of the actor after each collection; the first step updates the actor."""
        self.updates = 0


def twin_critic(inputs: int, hidden: Sequence[int], *, generator: torch.Generator) -> TwinCritic:
    """Two critics with PyTorch's initial weights."""
    return TwinCritic(inputs, hidden, generator=generator, last_bound=None, hidden_bias=None)


def smoothed_action(action_BA: Tensor, noise: float, clip: float, generator: torch.Generator) -> Tensor:
    """Target policy smoothing: clip(a + clip(eps, -c, c), -1, 1) with eps ~ N(0, noise^2).

    The outer clip is important: without it, the critic is evaluated at actions that are not possible.
    """
    eps_BA = torch.randn(action_BA.shape, generator=generator, device=action_BA.device)
    return (action_BA + (eps_BA * noise).clamp_(-clip, clip)).clamp_(-1.0, 1.0)


def twin_target(reward_B: Tensor, terminated_B: Tensor, next_value_B: Tensor, gamma: float) -> Tensor:
    """Y = r + gamma (1 - d) min(Q1', Q2')."""
    return reward_B + gamma * (1.0 - terminated_B) * next_value_B


def twin_loss(
    critics: TwinCritic, inputs_BX: Tensor, target_B: Tensor, weights_B: Tensor | None = None
) -> Tensor:
    """L_Q = mean w ((Q1 - y)^2 + (Q2 - y)^2), w = 1 if no weights are given."""
    first_B, second_B = critics(inputs_BX)
    squares_B: Tensor = (first_B - target_B).square() + (second_B - target_B).square()
    return (squares_B if weights_B is None else squares_B * weights_B).mean()


def policy_loss(critics: TwinCritic, inputs_BX: Tensor, weights_B: Tensor | None = None) -> Tensor:
    """L_pi = -mean w Q1(s, pi(s)); gradients flow through the critic to the action; the critic gets none."""
    critics.requires_grad_(False)
    value_B: Tensor = critics.first(inputs_BX).squeeze(-1)
    critics.requires_grad_(True)
    return -(value_B if weights_B is None else value_B * weights_B).mean()
