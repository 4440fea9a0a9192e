"""Soft actor-critic with a value network V: networks and losses shared by agents.

Haarnoja et al. 2018 (arXiv:1801.01290) as PEARL uses it: two critics, a state-value network with a
target copy, and a stochastic actor; the entropy coefficient is fixed at 1 and the reward is scaled
instead. The file of each agent states the order of its steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metarl_agents.common.config import OffPolicyConfig
from metarl_agents.networks.perceptrons import TwinCritic, mlp
from metarl_agents.networks.targets import PolyakTarget


@dataclass(frozen=True)
class SoftValueConfig(OffPolicyConfig):
    """Settings of agents built on soft actor-critic with a value network V.

    Attributes:
        meta_batch: tasks per gradient step, drawn uniformly with replacement.
        reward_scale: factor on the training reward.
        mean_penalty: weight of the mean square of the action mean before the tanh.
        log_std_penalty: weight of the mean square of the log standard deviation before the tanh.
        initial_weights: "released" for exactly those of PEARL's released code, with hidden layers
            within 1/sqrt(outputs), or "fan_in" for 1/sqrt(inputs) and a last bias of 0.
    """

    meta_batch: int = 16
    reward_scale: float = 5.0
    mean_penalty: float = 1e-3
    log_std_penalty: float = 1e-3
    initial_weights: str = "released"

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *OffPolicyConfig.may_be_zero,
        "mean_penalty",
        "log_std_penalty",
    )
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **OffPolicyConfig.choices,
        "initial_weights": ("released", "fan_in"),
    }

    @property
    def released_weights(self) -> bool:
        """Whether networks are initialised exactly as in PEARL's released code."""
        return self.initial_weights == "released"


class ActorLosses(NamedTuple):
    """Results of one pass through the actor; see `SoftValueNetworks.actor_losses`."""

    value: Tensor
    actor: Tensor
    log_prob: Tensor


class SoftValueNetworks(nn.Module):
    """Two critics, a value network and its target copy; states may include a latent variable.

    Args:
        state_size: size X of the state, i.e. of observation and latent variable together.
        action_size: size A of an action.
        hidden: widths of the hidden layers of every network.
        tau: step size of the Polyak averaging of the target value network.
        gamma: discount factor per step.
        reward_scale: factor on rewards; the inverse of an entropy coefficient.
        generator: CPU generator of the initial weights.
        released: whether they are exactly those of PEARL's released code; see `mlp`.
    """

    def __init__(
        self,
        state_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        tau: float,
        gamma: float,
        reward_scale: float,
        generator: torch.Generator,
        released: bool,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.reward_scale = reward_scale
        self.critics = TwinCritic(state_size + action_size, hidden, generator=generator, released=released)
        self.value = mlp(state_size, hidden, 1, generator=generator, last_bound=3e-3, released=released)
        self.target_value = PolyakTarget(self.value, tau)

    @torch.no_grad()
    def critic_target(self, reward_B: Tensor, terminated_B: Tensor, next_BX: Tensor) -> Tensor:
        """Target y = c r + gamma (1 - d) V'(s'), without gradient, shape (B,)."""
        next_value_B: Tensor = self.target_value(next_BX).squeeze(-1)
        return reward_B * self.reward_scale + self.gamma * (1.0 - terminated_B) * next_value_B

    def critic_loss(self, state_BX: Tensor, act_BA: Tensor, target_B: Tensor) -> Tensor:
        """Loss mean (Q1 - y)^2 + mean (Q2 - y)^2, without a factor of one half."""
        first_B: Tensor
        second_B: Tensor
        first_B, second_B = self.critics(torch.cat((state_BX, act_BA), -1))
        return (first_B - target_B).square().mean() + (second_B - target_B).square().mean()

    def actor_losses(
        self,
        state_BX: Tensor,
        sample: tuple[Tensor, Tensor, Tensor, Tensor],
        *,
        mean_penalty: float,
        log_std_penalty: float,
    ) -> ActorLosses:
        """Losses of the value network and the actor, from one newly sampled action per state.

        V regresses on sg[min Q(s, a) - log pi(a|s)]; the actor minimises
        log pi(a|s) - min Q(s, a), plus penalties on the mean squares of mean and log standard
        deviation before the tanh. Gradients flow through the critics to the action; the critics get none.

        Args:
            state_BX: states, detached from the inference of the latent variable.
            sample: result of `TanhGaussianActor.rsample` for these states.
            mean_penalty: weight of mean^2.
            log_std_penalty: weight of (log std)^2.
        """
        action_BA, log_prob_B, mean_BA, log_std_BA = sample
        # Gradients with respect to the critics' weights are not needed; not computing them saves a third
        # of the critics' backward pass.
        self.critics.requires_grad_(False)
        soft_q_B = self.critics.minimum(torch.cat((state_BX, action_BA), -1)) - log_prob_B
        self.critics.requires_grad_(True)
        value_loss = (self.value(state_BX).squeeze(-1) - soft_q_B.detach()).square().mean()
        actor_loss = (
            mean_penalty * mean_BA.square().mean()
            + log_std_penalty * log_std_BA.square().mean()
            - soft_q_B.mean()
        )
        return ActorLosses(value_loss, actor_loss, log_prob_B)
