"""Learners with a new policy for each task: DISTRAL, shared Q, and learning from scratch.

Galashov et al. 2020 (arXiv:2009.04875), section 5 and appendix A: SVG(0) with the KL divergence of the policy
from the frozen behaviour prior in value and policy losses and one-step targets; without a prior, SVG(0) with
Retrace.

Letters: T tasks, U tasks of an update, N rows, K actions of a row, B chunks, S steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl_agents.iwpa.critics import task_means
from metarl_agents.iwpa.learners import Learner, Parts, states
from metarl_agents.iwpa.stacked import TaskNetworks, descend, gaussian
from metarl_agents.iwpa.steps import Chunks, IntArray
from metarl_agents.networks.functional import Gaussian, Parameters
from metarl_agents.priors.samples import AFTER, BEFORE, samples
from metarl_agents.priors.values import retrace


class PolicyLearner(Learner):
    """Acts by a policy of each task, which follows the gradient of its critic.

    Args:
        parts: what it is made of.
        policies: parameters of new policies (T, ...).
        prior: parameters of the frozen prior, with a leading axis of 1, or None for learning from scratch.
    """

    def __init__(self, parts: Parts, policies: Parameters, prior: Parameters | None) -> None:
        super().__init__(parts)
        self.prior = prior
        self.policies = TaskNetworks(
            policies,
            list(policies),
            learning_rate=self.config.learning_rate,
            max_norm=self.config.max_gradient_norm,
            target_period=self.config.target_period,
        )

    @torch.no_grad()
    def act(self, tasks: IntArray, obs_UO: Tensor, *, greedy: bool) -> tuple[Tensor, Tensor]:
        """See `Learner.act`; greedy is the mean."""
        chosen = self.policies.chosen(self.noise.tasks(tasks))
        policy = gaussian(chosen, self.parts.std, obs_UO[:, None])
        action_U1A = policy.mean
        if not greedy:
            action_U1A = policy.with_noise(self.noise(tasks, *policy.mean.shape[1:]))
        return action_U1A[:, 0], policy.log_prob(action_U1A)[:, 0]

    def update(self, chunks: Chunks) -> dict[str, Tensor]:
        """See `Learner.update`: one step of the critic, then of the policy, both with the target networks."""
        tasks_U, numbers = chunks.tasks, chunks.tasks.cpu().numpy()
        obs_UBSO = states(self.steps, chunks)
        split = obs_UBSO.shape[1:3]

        def part(values: Tensor, where: slice) -> Tensor:
            """The states before, or after, each step."""
            return values.view(len(values), *split, *values.shape[2:])[:, :, where].flatten(1, 2)

        def at(distribution: Gaussian, where: slice) -> Gaussian:
            return Gaussian(part(distribution.mean, where), part(distribution.log_std, where))

        obs_UNO, std = obs_UBSO.flatten(1, 2), self.parts.std
        leaves = self.policies.leaves(tasks_U)
        policy = gaussian(leaves, std, obs_UNO)
        with torch.no_grad():
            slow = gaussian(self.policies.chosen(tasks_U, target=True), std, obs_UNO)
        divergence_UN = torch.zeros_like(policy.mean[..., 0])
        if self.prior is not None:
            with torch.no_grad():
                prior = gaussian(self.prior, std, obs_UNO)
            divergence_UN = prior.kl_from(policy)

        def draw(distribution: Gaussian) -> Tensor:
            shape = (distribution.mean.shape[1], self.config.policy_samples, distribution.mean.shape[-1])
            return samples(distribution, self.noise(numbers, *shape))

        # V'(s) = mean_k Q'(s, a_k) - alpha KL(pi || pi0), a_k ~ pi'(.|s).
        after = part(obs_UNO, AFTER)
        value_UN = self.critics.of_samples(tasks_U, after, draw(at(slow, AFTER))).mean(-1)
        value_UN = value_UN - self.config.kl_cost * part(divergence_UN.detach(), AFTER)
        target_UN = self.target(chunks, value_UN)
        if self.prior is None:
            target_UN = self._retrace(chunks, value_UN, at(slow, BEFORE))

        acting = at(policy, BEFORE)
        action_UNKA = draw(acting)
        _, slope_UNKA = self.critics.slopes_of_samples(tasks_U, part(obs_UNO, BEFORE), action_UNKA)
        loss_U, _ = self.critics.step(chunks, target_UN)
        gain_UN = (action_UNKA * slope_UNKA).sum(-1).mean(-1)
        divergence_UN = part(divergence_UN, BEFORE)
        policy_loss_U = task_means(self.config.kl_cost * divergence_UN - gain_UN, chunks.valid)
        descend(self.policies, leaves, policy_loss_U.sum(), tasks_U)
        with torch.no_grad():
            return {
                "value_error": loss_U,
                "prior_kl": task_means(divergence_UN, chunks.valid),
                "action_std": task_means(acting.log_std.exp().mean(-1), chunks.valid),
            }

    @torch.no_grad()
    def _retrace(self, chunks: Chunks, next_value_UN: Tensor, slow: Gaussian) -> Tensor:
        """Retrace's targets (U, N), whose corrections end with each chunk."""
        steps = self.steps
        ratio_UN = slow.log_prob(chunks.of(steps.act)) - chunks.of(steps.log_mu)

        def by_chunk(values_UN: Tensor) -> Tensor:
            return values_UN.reshape(-1, chunks.length)

        found = retrace(
            by_chunk(chunks.of(steps.reward)),
            by_chunk(self.critics.of_taken(chunks)),
            by_chunk(next_value_UN),
            by_chunk(self.parts.gamma * chunks.of(steps.discount)),
            by_chunk(ratio_UN),
            by_chunk(chunks.valid),
            self.config.trace_decay,
        )
        return found.target.view_as(ratio_UN)

    def state(self) -> Parameters:
        """See `Learner.state`."""
        return super().state() | {f"policies.{name}": v for name, v in self.policies.state().items()}
