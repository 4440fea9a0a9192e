"""Learners that act by samples of a prior, weighted by softmax(Q / alpha).

Galashov et al. 2020 (arXiv:2009.04875), eqs. 6 to 11. The divergence of K weights from equal weights is at
most log K, so the paper's bound for the adaptation, 30, never binds: the temperature follows the derivative
of its dual downwards.

Letters: T tasks, U tasks of an update, M steps of a task, N rows, K actions of a row, B chunks, S steps.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarl_agents.iwpa.critics import WEIGHTS, task_means
from metarl_agents.iwpa.learners import Learner, Parts, states
from metarl_agents.iwpa.stacked import (
    TaskAdam,
    TaskNetworks,
    block_size,
    descend,
    features,
    gaussian,
    outputs,
)
from metarl_agents.iwpa.steps import Chunks, IntArray
from metarl_agents.networks.functional import Gaussian, Parameters
from metarl_agents.priors.samples import log_prob, samples
from metarl_agents.priors.values import SMALLEST, consistent_soft_value, kl_from_uniform, log_weights


class WeightedLearner(Learner):
    """Acts by weighted samples of a prior; the temperature of each task follows its dual.

    Args:
        parts: what it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        initial = self.config.initial_temperature - SMALLEST
        # The inverse of softplus.
        rho = initial + math.log(-math.expm1(-initial))
        self.rho_T = self.steps.reward.new_full((len(self.steps.count),), rho)
        self.temperature_optimiser = TaskAdam({"rho": self.rho_T}, self.config.dual_learning_rate)

    @property
    def temperatures(self) -> Tensor:
        """Temperatures alpha (T,)."""
        return softplus(self.rho_T) + SMALLEST

    @abstractmethod
    def proposal(self, tasks_U: Tensor, obs_UNO: Tensor) -> Gaussian:
        """The prior (U, N, A) whose samples are weighted in acting."""

    @torch.no_grad()
    def act(self, tasks: IntArray, obs_UO: Tensor, *, greedy: bool) -> tuple[Tensor, Tensor]:
        """See `Learner.act`; the density is that of the prior. Greedy is the sample of the highest value."""
        tasks_U, obs_U1O = self.noise.tasks(tasks), obs_UO[:, None]
        prior = self.proposal(tasks_U, obs_U1O)
        noise_U1KA = self.noise(tasks, 1, self.config.acting_samples, prior.mean.shape[-1])
        action_U1KA = samples(prior, noise_U1KA)
        value_UK = self.critics.of_samples(tasks_U, obs_U1O, action_U1KA, target=False)[:, 0]
        if greedy:
            chosen_U = value_UK.argmax(-1)
        else:
            weight_UK = log_weights(value_UK, self.temperatures[tasks_U, None]).exp()
            ends_UK = weight_UK.cumsum(-1)
            place_U1 = self.noise.uniform(tasks)[:, None] * ends_UK[:, -1:]
            chosen_U = (ends_UK <= place_U1).sum(-1).clamp(max=weight_UK.shape[-1] - 1)
        action_UA = action_U1KA[:, 0].gather(1, chosen_U[:, None, None].expand(-1, 1, action_U1KA.shape[-1]))
        return action_UA[:, 0], prior.log_prob(action_UA)[:, 0]

    @torch.no_grad()
    def temper(self, tasks_U: Tensor, value_UNK: Tensor, valid_UN: Tensor) -> dict[str, Tensor]:
        """One step of the temperatures on the dual alpha (eps + mean log mean_k exp(Q_k / alpha)).

        Its derivative in alpha is eps minus the mean KL divergence of the weights from equal weights.
        """
        alpha_U = self.temperatures[tasks_U]
        logs_UNK = log_weights(value_UNK, alpha_U[:, None, None])
        divergence_U = task_means(kl_from_uniform(logs_UNK), valid_UN)
        if self.config.temperature == "dual":
            slope_U = (self.config.kl_bound - divergence_U) * torch.sigmoid(self.rho_T[tasks_U])
            self.temperature_optimiser.step({"rho": slope_U}, tasks_U)
        return {"alpha": alpha_U, "weight_kl": divergence_U}

    def soft_values(self, tasks_U: Tensor, value_UNK: Tensor) -> Tensor:
        """V (U, N) of eq. 10, consistent with the weights of eq. 6."""
        alpha_U11 = self.temperatures[tasks_U, None, None]
        return alpha_U11[..., 0] * consistent_soft_value(value_UNK / alpha_U11, 1.0)

    def state(self) -> Parameters:
        """See `Learner.state`."""
        moments = {f"temperature.{name}": v for name, v in self.temperature_optimiser.state().items()}
        return super().state() | {"rho": self.rho_T} | moments


class FrozenPriorLearner(WeightedLearner):
    """Acts by weighted samples of the pre-trained prior; learns critics only.

    The K samples of the prior in the state after a step are drawn once, when the step is stored. When the
    target network of a task changes, their values are computed for all its steps at once, and for new
    steps in between. These are fewer products than for the chunks of every update.

    Args:
        parts: what it is made of.
        prior: parameters of the prior, with a leading axis of 1.
    """

    def __init__(self, parts: Parts, prior: Parameters) -> None:
        super().__init__(parts)
        self.prior = prior
        tasks, capacity = self.steps.reward.shape
        self.block = block_size(tasks, self.config.action_samples)
        shape = (tasks, capacity, self.config.action_samples)
        self.sample_TMKA = self.steps.reward.new_zeros(*shape, self.steps.act.shape[-1])
        self.value_TMK = self.steps.reward.new_zeros(shape)
        #: Numbers of steps of each task whose values, or features, have been computed.
        self.valued, self.kept = np.zeros(tasks, np.int64), np.zeros(tasks, np.int64)
        self.cache_TMKF: Tensor | None = None
        if self.critics.frozen:
            width = self.critics.taken_TMF.shape[-1]
            if 4e-9 * math.prod(shape) * width <= self.config.feature_cache:
                self.cache_TMKF = self.steps.reward.new_zeros(*shape, width)

    def proposal(self, tasks_U: Tensor, obs_UNO: Tensor) -> Gaussian:
        """See `WeightedLearner.proposal`."""
        return gaussian(self.prior, self.parts.std, obs_UNO)

    @torch.no_grad()
    def added(self, tasks: IntArray, rows: IntArray) -> None:
        """See `Learner.added`; also draws the samples of the prior in the states after the steps."""
        super().added(tasks, rows)
        where = (self.noise.tasks(tasks), self.noise.tasks(rows))
        prior = self.proposal(where[0], self.steps.obs_next[where][:, None])
        noise_U1KA = self.noise(tasks, 1, *self.sample_TMKA.shape[2:])
        self.sample_TMKA[where] = samples(prior, noise_U1KA)[:, 0]

    @torch.no_grad()
    def refresh(self, tasks: IntArray) -> None:
        """Computes the values that are not yet those of the target networks, in whole blocks of steps.

        Products have the same shapes whether features are kept or not, so the values are the same.
        """
        tasks_U, end = self.noise.tasks(tasks), int(self.steps.count[tasks].max())
        weights_UF = self.critics.networks.target[WEIGHTS][tasks_U]
        for start in range(int(self.valued[tasks].min()) // self.block * self.block, end, self.block):
            rows = slice(start, start + self.block)
            if self.cache_TMKF is None:
                obs_UNO, act_UNKA = self.steps.obs_next[tasks_U, rows], self.sample_TMKA[tasks_U, rows]
                self.value_TMK[tasks_U, rows] = self.critics.of_samples(tasks_U, obs_UNO, act_UNKA)
                continue
            # The last block of steps may have got more of them.
            if start + self.block > self.kept[tasks].min():
                obs_UNO, act_UNKA = self.steps.obs_next[tasks_U, rows], self.sample_TMKA[tasks_U, rows]
                self.cache_TMKF[tasks_U, rows] = features(self.critics.networks.online, obs_UNO, act_UNKA)
            everything = len(tasks) == len(self.valued)
            # A view instead of a copy, if possible.
            found = self.cache_TMKF[:, rows] if everything else self.cache_TMKF[tasks_U, rows]
            self.value_TMK[tasks_U, rows] = outputs(found, weights_UF, None)
        self.valued[tasks] = self.kept[tasks] = self.steps.count[tasks]

    def update(self, chunks: Chunks) -> dict[str, Tensor]:
        """See `Learner.update`: eqs. 9 and 10, then the temperature."""
        self.refresh(chunks.tasks.cpu().numpy())
        value_UNK = chunks.of(self.value_TMK)
        target_UN = self.target(chunks, self.soft_values(chunks.tasks, value_UNK))
        loss_U, due = self.critics.step(chunks, target_UN)
        self.valued[due.cpu().numpy()] = 0
        return {"value_error": loss_U} | self.temper(chunks.tasks, value_UNK, chunks.valid)

    def unfreeze(self) -> None:
        """The features are learned from now on, so nothing can be kept of them."""
        self.critics.unfreeze()
        self.cache_TMKF = None
        self.valued[:] = 0

    def state(self) -> Parameters:
        """See `Learner.state`."""
        return super().state() | {"samples": self.sample_TMKA}

    def restored(self) -> None:
        """See `Learner.restored`."""
        super().restored()
        self.valued[:] = self.kept[:] = 0


class LearnedPriorLearner(WeightedLearner):
    """Acts by weighted samples of a new prior of each task, which learns by eq. 11 ("q_only").

    Args:
        parts: what it is made of.
        priors: parameters of new priors (T, ...).
    """

    def __init__(self, parts: Parts, priors: Parameters) -> None:
        super().__init__(parts)
        self.priors = TaskNetworks(
            priors,
            list(priors),
            learning_rate=self.config.learning_rate,
            max_norm=self.config.max_gradient_norm,
            target_period=self.config.target_period,
        )

    def proposal(self, tasks_U: Tensor, obs_UNO: Tensor) -> Gaussian:
        """See `WeightedLearner.proposal`."""
        return gaussian(self.priors.chosen(tasks_U), self.parts.std, obs_UNO)

    def update(self, chunks: Chunks) -> dict[str, Tensor]:
        """See `Learner.update`: eqs. 9 and 10, eq. 11, then the temperature; as in `algorithms.iwpl`."""
        tasks_U, numbers = chunks.tasks, chunks.tasks.cpu().numpy()
        obs_UBSO = states(self.steps, chunks)
        obs_UNO = obs_UBSO.flatten(1, 2)
        with torch.no_grad():
            slow = gaussian(self.priors.chosen(tasks_U, target=True), self.parts.std, obs_UNO)
            noise = self.noise(numbers, obs_UNO.shape[1], self.config.action_samples, slow.mean.shape[-1])
            action_UNKA = samples(slow, noise)
            value_UNK = self.critics.of_samples(tasks_U, obs_UNO, action_UNKA)

        def part(values: Tensor, where: slice) -> Tensor:
            """The states before, or after, each step."""
            split = values.view(len(values), -1, chunks.length + 1, *values.shape[2:])
            return split[:, :, where].flatten(1, 2)

        before, after = slice(None, -1), slice(1, None)
        target_UN = self.target(chunks, self.soft_values(tasks_U, part(value_UNK, after)))
        loss_U, _ = self.critics.step(chunks, target_UN)

        value_UNK, action_UNKA = part(value_UNK, before), part(action_UNKA, before)
        weight_UNK = log_weights(value_UNK, self.temperatures[tasks_U, None, None]).exp()
        leaves = self.priors.leaves(tasks_U)
        prior = gaussian(leaves, self.parts.std, part(obs_UNO, before))
        gain_UN = (weight_UNK * log_prob(prior, action_UNKA)).sum(-1)
        prior_loss_U = -task_means(gain_UN, chunks.valid)
        descend(self.priors, leaves, prior_loss_U.sum(), tasks_U)
        numbers_U = {"value_error": loss_U, "prior_loss": prior_loss_U.detach()}
        return numbers_U | self.temper(tasks_U, value_UNK, chunks.valid)

    def state(self) -> Parameters:
        """See `Learner.state`."""
        return super().state() | {f"priors.{name}": v for name, v in self.priors.state().items()}
