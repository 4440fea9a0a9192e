"""Base class of agents whose critic learns by Retrace from the actions of a Gaussian policy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl_agents.networks.functional import Gaussian
from metarl_agents.priors.learner import ChunkLearner, TPolicy
from metarl_agents.priors.samples import BEFORE, at
from metarl_agents.priors.values import Retrace, retrace, valid_mean


class TargetView(NamedTuple):
    """What the target networks say about the states of a batch of chunks.

    Attributes:
        policy: target policy at all S + 1 states.
        mapped: part (B, S + 1, H) of the target critic's first layer that does not depend on the action.
    """

    policy: Gaussian
    mapped: Tensor

    def policy_at(self, states: slice) -> Gaussian:
        """The policy in the states before, or after, each step (B, S)."""
        return at(self.policy, states)

    def mapped_at(self, states: slice) -> Tensor:
        """The part of the critic's first layer in these states (B, S, H)."""
        return self.mapped[:, states]


class RetraceAlgorithm(ChunkLearner[TPolicy]):
    """Critic update that SVG(0), DISTRAL and MPO have in common."""

    @torch.no_grad()
    def target_view(self, data: Any) -> Any:
        """The target networks at all states of the chunks, as a `TargetView` or what has its methods."""
        target = self.target.network
        return TargetView(
            target.actor(data.obs, data.task[:, None]), target.critic.map_states(data.obs, data.task)
        )

    def values(self, data: Any) -> Tensor:
        """Q(s, a) (B, S) of the actions taken, with the gradient of the critic."""
        values_BS: Tensor = self.policy.networks.critic(data.obs[:, BEFORE], data.task, data.act)
        return values_BS

    def critic_step(
        self, data: Any, view: Any, next_value_BS: Tensor, penalty: Tensor | float = 0.0
    ) -> tuple[Tensor, Retrace]:
        """One step of the critic towards Retrace's targets, .5 (Q - target)^2.

        Args:
            data: a `ChunkBatch`, or what has its fields.
            view: the target networks at its states; see `TargetView`.
            next_value_BS: V' at the states after each step.
            penalty: added to the loss of which the gradient is taken.

        Returns:
            The loss, and Retrace's targets and coefficients.
        """
        with torch.no_grad():
            value_BS = self.target.network.critic.of_samples(
                view.mapped_at(BEFORE), data.task, data.act[:, :, None]
            ).squeeze(-1)
            returns = retrace(
                data.reward,
                value_BS,
                next_value_BS,
                self.config.gamma * data.discount,
                view.policy_at(BEFORE).log_prob(data.act) - data.log_mu,
                data.valid,
                self.config.trace_decay,
            )
        loss = 0.5 * valid_mean((self.values(data) - returns.target).square(), data.valid)
        self.critic_optim.step(loss + penalty)
        return loss.detach(), returns
