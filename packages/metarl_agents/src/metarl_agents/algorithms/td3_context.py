"""TD3-context: TD3 on observations and a recurrent context of the episode so far.

The meta-training of Meta-Q-Learning (Fakoor et al. 2020, arXiv:1910.00125, sections 3.1 and 4.2): plain
TD3 on a pool of all tasks' transitions, eq. 15, whose actor and critics receive the last hidden state of a
GRU over the last actions, rewards and observations of the episode. Actor, critics and their target copies
have a GRU each, trained by their own losses; both critics share one. The context never includes earlier
episodes. `metarl_agents.replay.windows` describes the contents of a window and the differences from the
released code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Algorithm
from torch import Tensor, nn

from metarl_agents.common.context import Context
from metarl_agents.common.seeding import torch_stream
from metarl_agents.networks.actors import DeterministicActor
from metarl_agents.networks.gru import RollingContext, WindowGRU, last_states
from metarl_agents.networks.optimisers import adam
from metarl_agents.networks.targets import PolyakTarget
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.deterministic_value import (
    DelayedAlgorithm,
    DeterministicConfig,
    policy_loss,
    smoothed_action,
    twin_critic,
    twin_loss,
    twin_target,
)
from metarl_agents.replay.policy import ExploringPolicy
from metarl_agents.replay.transitions import Transitions
from metarl_agents.replay.windows import (
    History,
    draw_history,
    entries_of,
    entry_size,
    first_entries,
)

if TYPE_CHECKING:
    from metarl_envs.evaluation import Agent, Transition, Trial


@dataclass(frozen=True)
class TD3ContextConfig(DeterministicConfig):
    """Configuration of TD3-context; the defaults are those of the released code for MetaHalfCheetah-Vel.

    Attributes:
        history_length: number of entries of a context window in training and, unless unbounded, in acting.
        context_size: dimension of the context.
        unbounded_evaluation: whether the context covers the whole episode in evaluation.
    """

    history_length: int = 20
    context_size: int = 15
    unbounded_evaluation: bool = False

    may_be_zero: ClassVar[tuple[str, ...]] = (*DeterministicConfig.may_be_zero, "unbounded_evaluation")


class ContextBatch(NamedTuple):
    """The data of one gradient step.

    Attributes:
        transitions: B transitions.
        history: earlier steps of each of them.
    """

    transitions: Transitions
    history: History


class ContextActor(nn.Module):
    """The actor pi(s, z) with its own GRU for z."""

    def __init__(self, gru: WindowGRU, head: DeterministicActor) -> None:
        super().__init__()
        self.gru = gru
        self.head = head

    def forward(self, obs_BO: Tensor, context_BC: Tensor) -> Tensor:
        """Actions (B, A)."""
        actions_BA: Tensor = self.head(torch.cat((obs_BO, context_BC), -1))
        return actions_BA


class ContextCritic(nn.Module):
    """The critics Q1(s, a, z) and Q2(s, a, z), which share one GRU for z."""

    def __init__(self, inputs: int, entry: int, config: TD3ContextConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.gru = WindowGRU(entry, config.context_size, generator=generator)
        self.twins = twin_critic(inputs + config.context_size, config.hidden, generator=generator)


class TD3ContextPolicy(ExploringPolicy):
    """Recurrent deterministic actor. Conditionings: "random" and "exploring" (with noise)."""

    name = "TD3-context"

    def __init__(
        self,
        *,
        actor: ContextActor,
        config: TD3ContextConfig,
        action_space: Box,
        observation_space: Box,
        generator: torch.Generator,
    ) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.actor = actor
        self.config = config
        self.memory: RollingContext | None = None
        self.context_RC = torch.zeros(0, config.context_size)

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Stores whether actions are uniformly random, and clears the memory.

        Raises:
            ValueError: for a conditioning this policy does not have.
        """
        super().begin_rollouts(tasks_R, conditioning, buffer)
        self.begin_episodes(len(tasks_R), self.config.history_length)

    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """See `MetaPolicy.prepare`."""
        super().prepare(decided, count)
        self.begin_episodes(count, self.config.history_length)

    def begin_episodes(self, count: int, length: int | None) -> None:
        """Clears the memory at the start of episodes.

        Args:
            count: number of episodes R.
            length: number of entries in the context; None for all.
        """
        self.memory = RollingContext(self.actor.gru, count, length)

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) given the observed steps, with noise, clipped to [-1, 1].

        Raises:
            RuntimeError: before `begin_rollouts`.
        """
        if self.memory is None:
            raise RuntimeError("a recurrent policy acts in rollouts: call begin_rollouts first")
        if not self.memory.pushed:
            shape = (len(observations_RO), self.action_space.shape[0])
            noise_RA = torch.randn(shape, generator=self.generator, device=observations_RO.device)
            entry = first_entries(observations_RO, noise_RA, self.config.exploration_noise)
            self.context_RC = self.memory.push(entry)
        if self.at_random and not deterministic:
            return self.uniform_actions(len(observations_RO))
        context_RC = self.context_RC if rows is None else self.context_RC[torch.as_tensor(rows)]
        actions_RA: Tensor = self.actor(observations_RO, context_RC)
        return actions_RA if deterministic else self.with_noise(actions_RA, self.config.exploration_noise)

    def observe(self, observations_RO: Tensor, actions_RA: Tensor, rewards_R: Tensor) -> None:
        """Adds the step to the context."""
        assert self.memory is not None
        self.context_RC = self.memory.push(entries_of(observations_RO, actions_RA, rewards_R))


class ContextNetworks(nn.Module):
    """The critics and the target copies; the actor belongs to the policy."""

    def __init__(self, actor: ContextActor, critic: ContextCritic, tau: float) -> None:
        super().__init__()
        self.critic = critic
        self.target_actor = PolyakTarget(actor, tau)
        self.target_critic = PolyakTarget(critic, tau)


class TD3Context(DelayedAlgorithm[TD3ContextPolicy]):
    """TD3 with a recurrent context for actor and critics; see the module for the source."""

    config_class: ClassVar[type[TD3ContextConfig]] = TD3ContextConfig
    config: TD3ContextConfig

    def __init__(
        self,
        *,
        policy: TD3ContextPolicy,
        networks: ContextNetworks,
        config: TD3ContextConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(policy=policy, config=config, generator=generator)
        self.networks = networks
        factory = adam(config.learning_rate)
        self.critic_optim = self._create_optimizer(networks.critic, factory)
        self.actor_optim = self._create_optimizer(policy.actor, factory)

    @classmethod
    def from_config(
        cls,
        config: TD3ContextConfig,
        context: Context,
    ) -> Self:
        """Builds the networks with initial weights from the run's seed, on the device."""
        observations, actions = context.observations, context.actions
        weights = context.weights()
        entry = entry_size(observations, actions)
        gru = WindowGRU(entry, config.context_size, generator=weights)
        head = DeterministicActor(
            observations + config.context_size, config.hidden, actions, generator=weights
        )
        policy = TD3ContextPolicy(
            actor=ContextActor(gru, head),
            config=config,
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        ).to(context.device)
        critic = ContextCritic(observations + actions, entry, config, weights).to(context.device)
        return cls(
            policy=policy,
            networks=ContextNetworks(policy.actor, critic, config.tau),
            config=config,
            generator=context.stream("update"),
        )

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> ContextBatch:
        """Transitions drawn uniformly from all tasks' data, with their histories."""
        return self.batch(buffer, buffer.sample_indices(batch_size))

    def batch(self, buffer: TaskReplayBuffer, rows_B: IntArray) -> ContextBatch:
        """The transitions in these rows with their histories."""
        history = draw_history(
            buffer,
            rows_B,
            self.config.history_length,
            noise=self.config.exploration_noise,
            generator=self.generator,
        )
        return ContextBatch(self.transitions(buffer, rows_B), history)

    def gradient_step(self, data: ContextBatch) -> dict[str, Tensor]:
        """One step of the critics and, in every `policy_every`-th call, of all other networks."""
        return self.step(data, self.critic_optim, self.actor_optim)

    def step(
        self,
        data: ContextBatch,
        critic_optim: Algorithm.Optimizer,
        actor_optim: Algorithm.Optimizer,
        weights_B: Tensor | None = None,
        critic_penalty: Any = None,
        actor_penalty: Any = None,
    ) -> dict[str, Tensor]:
        """The update rule; weights and penalties are for algorithms that adapt with it.

        Args:
            data: the batch.
            critic_optim: optimiser of the critics and their GRU.
            actor_optim: optimiser of the actor and its GRU.
            weights_B: weights of the transitions' losses.
            critic_penalty: function that returns a scalar to add to the critics' loss.
            actor_penalty: function that returns a scalar to add to the actor's loss.
        """
        config, networks, actor = self.config, self.networks, self.policy.actor
        batch, history = data
        # y = r + gamma (1 - d) min Q'(s', a', z'_Q), a' = clip(pi'(s', z'_pi) + clip(eps)). The
        # target GRUs process the history after the step, both in one pass.
        slow_actor, slow_critic = networks.target_actor.network, networks.target_critic.network
        with torch.no_grad():
            actor_context_BC, critic_context_BC = last_states(
                [slow_actor.gru, slow_critic.gru], *history.after
            )
            next_action_BA = smoothed_action(
                slow_actor(batch.obs_next, actor_context_BC),
                config.target_noise,
                config.target_noise_clip,
                self.generator,
            )
            next_value_B = slow_critic.twins.minimum(
                torch.cat((batch.obs_next, next_action_BA, critic_context_BC), -1)
            )
            target_B = twin_target(batch.reward, batch.terminated, next_value_B, config.gamma)
        # TD^2, eq. 15, with z from the history before the step.
        context_BC = networks.critic.gru(*history.before)
        critic_loss = twin_loss(
            networks.critic.twins, torch.cat((batch.obs, batch.act, context_BC), -1), target_B, weights_B
        )
        critic_optim.step(critic_loss if critic_penalty is None else critic_loss + critic_penalty())

        if self.updates % config.policy_every == 0:
            # Deterministic policy gradient, eq. 6. The critics' context is a constant.
            with torch.no_grad():
                context_BC = networks.critic.gru(*history.before)
            action_BA = actor(batch.obs, actor.gru(*history.before))
            actor_loss = policy_loss(
                networks.critic.twins, torch.cat((batch.obs, action_BA, context_BC), -1), weights_B
            )
            actor_optim.step(actor_loss if actor_penalty is None else actor_loss + actor_penalty())
            networks.target_critic.follow()
            networks.target_actor.follow()
            self.policy_value = -actor_loss.detach()
        self.updates += 1
        return {
            "critic_loss": critic_loss,
            "target_value": target_B.mean(),
            "policy_value": self.policy_value,
        }

    def trial_agent(self) -> "Agent":
        """The trained agent for `metarl_envs.evaluation`."""
        return TD3ContextAgent(self.policy)


class TD3ContextAgent:
    """Acts on the history of the current episode; no data of earlier episodes of the trial are used.

    Actions are deterministic, except in scored episodes if the protocol requires sampled actions.
    """

    observe_task = False

    def __init__(self, policy: TD3ContextPolicy) -> None:
        self.policy = policy
        self.length = None if policy.config.unbounded_evaluation else policy.config.history_length

    def begin_trial(self, trial: "Trial") -> None:
        """Seeds the policy for the trial."""
        self.trial = trial
        self.finished_episodes = 0
        policy = self.policy
        policy.generator = torch_stream(trial.seed, "trial", policy.generator.device)
        policy.at_random = False
        policy.begin_episodes(trial.num_tasks, self.length)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        scored = self.finished_episodes >= self.trial.adaptation_episodes
        deterministic = self.trial.deterministic or not scored
        return self.policy.act_on_arrays(observations, deterministic=deterministic)

    def observe(self, transition: "Transition") -> None:
        """Adds the step to the context."""
        policy = self.policy
        policy.observe(
            policy.tensor(transition.observation),
            policy.tensor(transition.action),
            policy.tensor(transition.reward),
        )

    def end_episode(self) -> None:
        """The next episode starts without a history."""
        self.finished_episodes += 1
        self.policy.begin_episodes(self.trial.num_tasks, self.length)
