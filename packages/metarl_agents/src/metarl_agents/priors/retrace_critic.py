"""Base class of agents whose critic learns by Retrace from the actions of a Gaussian policy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl_agents.networks.functional import Gaussian
from metarl_agents.priors.algorithm import ChunkBatch, MultiTaskAlgorithm
from metarl_agents.priors.config import RetraceConfig
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


class RetraceAlgorithm(MultiTaskAlgorithm):
    """Critic update that SVG(0), DISTRAL and MPO have in common."""

    config: RetraceConfig

    @torch.no_grad()
    def target_view(self, data: ChunkBatch) -> TargetView:
        """The target networks at all states of the chunks."""
        target = self.target.network
        return TargetView(
            target.actor(data.obs, data.task[:, None]), target.critic.map_states(data.obs, data.task)
        )

    def critic_step(
        self, data: ChunkBatch, view: TargetView, next_value_BS: Tensor
    ) -> tuple[Tensor, Retrace]:
        """One step of the critic towards Retrace's targets, .5 (Q - target)^2.

        Args:
            data: the batch.
            view: the target networks at its states.
            next_value_BS: V' at the states after each step.

        Returns:
            The loss, and Retrace's targets and coefficients.
        """
        with torch.no_grad():
            value_BS = self.target.network.critic.of_samples(
                view.mapped[:, BEFORE], data.task, data.act[:, :, None]
            ).squeeze(-1)
            returns = retrace(
                data.reward,
                value_BS,
                next_value_BS,
                self.config.gamma * data.discount,
                at(view.policy, BEFORE).log_prob(data.act) - data.log_mu,
                data.valid,
                self.config.trace_decay,
            )
        value_BS = self.policy.networks.critic(data.obs[:, BEFORE], data.task, data.act)
        loss = 0.5 * valid_mean((value_BS - returns.target).square(), data.valid)
        self.critic_optim.step(loss)
        return loss.detach(), returns
