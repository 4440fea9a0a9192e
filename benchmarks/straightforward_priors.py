"""Simple PyTorch implementations of the multi-task agents' updates, the reference for the speed of ours.

The same mathematics and weights as in `metarl_agents.algorithms`, written as one would from the papers:
states are repeated once per action sample and concatenated with actions and task, distributions are those of
`torch.distributions`, target networks are copied by `load_state_dict`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy, TaskWeights, Torso
from metarl_agents.priors.algorithm import ChunkBatch, MultiTaskAlgorithm


def plain_torso(ours: Torso, order: Sequence[int]) -> nn.Sequential:
    """Returns the torso as a sequence of PyTorch's layers; the parts of the input are in this order."""
    weight = torch.cat([ours.first.maps[part].detach() for part in order], 1)
    first = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        first.weight.copy_(weight)
        first.bias.copy_(ours.first.bias)
    layers: list[nn.Module] = [first, copy.deepcopy(ours.first.norm), nn.Tanh()]
    for layer in ours.layers:
        layers += [copy.deepcopy(layer), nn.ELU()]
    return nn.Sequential(*layers)


class PlainPolicy(nn.Module):
    """Gaussian policy or behaviour prior."""

    def __init__(self, ours: GaussianPolicy) -> None:
        super().__init__()
        self.torso = plain_torso(ours.torso, range(len(ours.torso.first.maps)))
        self.mean, self.spread = copy.deepcopy(ours.mean), copy.deepcopy(ours.spread)
        self.low, self.high, self.offset = ours.low, ours.high, ours.offset

    def forward(self, inputs: Tensor) -> Independent:
        """Returns the distribution of actions."""
        features = self.torso(inputs)
        std = self.low + (self.high - self.low) * torch.sigmoid(self.spread(features) + self.offset)
        return Independent(Normal(torch.tanh(self.mean(features)), std, validate_args=False), 1)


class PlainCritic(nn.Module):
    """Q(s, a, i)."""

    def __init__(self, ours: ActionValue) -> None:
        super().__init__()
        self.torso = plain_torso(ours.torso, range(len(ours.torso.first.maps)))
        self.output = copy.deepcopy(ours.output)

    def forward(self, obs: Tensor, act: Tensor, task: Tensor) -> Tensor:
        """Returns the values of rows of states, actions and tasks."""
        act = act.clamp(-1, 1)
        if isinstance(self.output, TaskWeights):
            features = self.torso(torch.cat((obs, act), -1))
            return (features * self.output(task)).sum(-1)
        return self.output(self.torso(torch.cat((obs, act, task), -1))).squeeze(-1)


class StraightforwardMultiTask:
    """Trains copies of an algorithm's networks."""

    def __init__(self, algorithm: MultiTaskAlgorithm) -> None:
        self.config, self.kind = algorithm.config, type(algorithm).__name__
        networks = algorithm.policy.networks
        self.networks = nn.ModuleDict({"critic": PlainCritic(networks.critic)})
        for name in ("actor", "prior"):
            if getattr(networks, name) is not None:
                self.networks[name] = PlainPolicy(getattr(networks, name))
        self.slow = copy.deepcopy(self.networks).requires_grad_(False)
        self.extra: nn.Module | None = None
        if self.kind in ("MPO", "MPODistral"):
            self.extra, self.extra_rate = copy.deepcopy(algorithm.duals), self.config.dual_learning_rate
        elif self.kind == "IWPL":
            self.extra = copy.deepcopy(algorithm.policy.temperature)
            self.extra_rate, self.bound = self.config.dual_learning_rate, algorithm.bound
        rate = self.config.learning_rate
        self.optim = {name: torch.optim.Adam(net.parameters(), rate) for name, net in self.networks.items()}
        if self.extra is not None:
            self.optim["extra"] = torch.optim.Adam(self.extra.parameters(), self.extra_rate)
        self.generator = torch.Generator().manual_seed(0)
        self.updates = 0

    # -- parts --------------------------------------------------------------------------------------------

    def descend(self, name: str, loss: Tensor) -> None:
        """Takes one step of an optimiser."""
        self.optim[name].zero_grad()
        loss.backward()
        if name in self.networks:
            nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.config.max_gradient_norm)
        self.optim[name].step()

    def sample(self, policy: Independent) -> Tensor:
        """Returns K actions of each state, (B, S, K, A)."""
        mean, std = policy.base_dist.loc, policy.base_dist.scale
        shape = (*mean.shape[:-1], self.config.action_samples, mean.shape[-1])
        noise = torch.randn(shape, generator=self.generator, dtype=mean.dtype)
        return mean.unsqueeze(-2) + std.unsqueeze(-2) * noise

    @staticmethod
    def values(critic: nn.Module, obs: Tensor, act: Tensor, task: Tensor) -> Tensor:
        """Returns the values of K actions of each state, by tiling states and tasks."""
        count = act.shape[2]
        tiled = obs.unsqueeze(2).expand(-1, -1, count, -1)
        tasks = task[:, None, None].expand(-1, *act.shape[1:3], -1)
        return critic(tiled, act, tasks)

    @staticmethod
    def mean(values: Tensor, valid: Tensor) -> Tensor:
        """Returns the mean over valid steps."""
        return (values * valid).sum() / valid.sum()

    def with_task(self, data: ChunkBatch) -> Tensor:
        """Returns observations with the task appended."""
        return torch.cat((data.obs, data.task[:, None].expand(-1, data.obs.shape[1], -1)), -1)

    def fit_critic(self, data: ChunkBatch, target: Tensor) -> Tensor:
        """Takes a step of the critic, and returns its loss."""
        task = data.task[:, None].expand(-1, data.act.shape[1], -1)
        value = self.networks["critic"](data.obs[:, :-1], data.act, task)
        loss = self.mean(0.5 * (value - target) ** 2, data.valid)
        self.descend("critic", loss)
        return loss

    @torch.no_grad()
    def retrace(self, data: ChunkBatch, next_value: Tensor, policy: Independent) -> tuple[Tensor, Tensor]:
        """Returns Retrace's targets and coefficients."""
        value = self.values(self.slow["critic"], data.obs[:, :-1], data.act[:, :, None], data.task)[..., 0]
        loc, scale = policy.base_dist.loc[:, :-1], policy.base_dist.scale[:, :-1]
        log_pi = Independent(Normal(loc, scale, validate_args=False), 1).log_prob(data.act)
        trace = self.config.trace_decay * torch.exp(torch.clamp(log_pi - data.log_mu, max=0)) * data.valid
        gamma = self.config.gamma * data.discount
        delta = (data.reward + gamma * next_value - value) * data.valid
        result, correction = torch.zeros_like(value), torch.zeros_like(value[:, 0])
        for t in reversed(range(value.shape[1])):
            following = trace[:, t + 1] if t + 1 < value.shape[1] else 0.0
            correction = delta[:, t] + gamma[:, t] * following * correction
            result[:, t] = (value[:, t] + correction) * data.valid[:, t]
        return result, trace

    # -- updates ------------------------------------------------------------------------------------------

    def gradient_step(self, data: ChunkBatch) -> dict[str, Tensor]:
        """Makes one update."""
        updates: dict[str, Callable[[ChunkBatch], dict[str, Any]]] = {
            "SVG0": self.svg0,
            "Distral": self.svg0,
            "MPO": self.mpo,
            "MPODistral": self.mpo,
            "IWPL": self.iwpl,
        }
        result = updates[self.kind](data)
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            self.slow.load_state_dict(self.networks.state_dict())
        return {name: value.detach() for name, value in result.items()}

    def penalty(self, data: ChunkBatch, policy: Independent) -> Tensor | float:
        """Returns alpha times the KL divergence from the prior's copy, 0 without a prior."""
        if "prior" not in self.networks:
            return 0.0
        with torch.no_grad():
            prior = self.slow["prior"](data.obs)
        return self.config.kl_cost * kl_divergence(policy, prior)

    def distil(self, data: ChunkBatch, policy: Independent) -> dict[str, Tensor]:
        """Takes a step of the prior, if there is one, and returns its loss."""
        if "prior" not in self.networks:
            return {}
        prior = self.networks["prior"](data.obs[:, :-1])
        loc, scale = policy.base_dist.loc[:, :-1].detach(), policy.base_dist.scale[:, :-1].detach()
        fixed = Independent(Normal(loc, scale, validate_args=False), 1)
        loss = self.mean(kl_divergence(fixed, prior), data.valid)
        self.descend("prior", loss)
        return {"prior_loss": loss}

    def svg0(self, data: ChunkBatch) -> dict[str, Tensor]:
        """SVG(0) and DISTRAL."""
        inputs = self.with_task(data)
        policy = self.networks["actor"](inputs)
        penalty = self.penalty(data, policy)
        with torch.no_grad():
            slow_policy = self.slow["actor"](inputs)
            loc, scale = slow_policy.base_dist.loc[:, 1:], slow_policy.base_dist.scale[:, 1:]
            following = self.sample(Independent(Normal(loc, scale, validate_args=False), 1))
            next_value = self.values(self.slow["critic"], data.obs[:, 1:], following, data.task).mean(-1)
            if not isinstance(penalty, float):
                next_value = next_value - penalty[:, 1:]
            target, trace = self.retrace(data, next_value, slow_policy)
        critic_loss = self.fit_critic(data, target)

        loc, scale = policy.base_dist.loc[:, :-1], policy.base_dist.scale[:, :-1]
        acting = Independent(Normal(loc, scale, validate_args=False), 1)
        value = self.values(self.slow["critic"], data.obs[:, :-1], self.sample(acting), data.task).mean(-1)
        loss = -value - self.config.entropy_cost * acting.entropy()
        if not isinstance(penalty, float):
            loss = loss + penalty[:, :-1]
        self.descend("actor", self.mean(loss, data.valid))
        return self.distil(data, policy) | {
            "value_error": critic_loss,
            "target_value": self.mean(target, data.valid),
            "policy_value": self.mean(value, data.valid),
            "trace": self.mean(trace, data.valid),
        }

    def mpo(self, data: ChunkBatch) -> dict[str, Tensor]:
        """MPO, with and without a prior."""
        config, duals = self.config, self.extra
        inputs = self.with_task(data)
        policy = self.networks["actor"](inputs)
        penalty = self.penalty(data, policy)
        with torch.no_grad():
            slow_policy = self.slow["actor"](inputs)
            actions = self.sample(slow_policy)
            values = self.values(self.slow["critic"], data.obs, actions, data.task)
            next_value = values[:, 1:].mean(-1)
            if not isinstance(penalty, float):
                next_value = next_value - penalty[:, 1:]
            target, trace = self.retrace(data, next_value, slow_policy)
        critic_loss = self.fit_critic(data, target)

        actions, values = actions[:, :-1], values[:, :-1]
        costs = -torch.linalg.vector_norm(actions - actions.clamp(-1, 1), dim=-1)
        weights, dual_loss = 0.0, 0.0
        for scores, eta, bound in (
            (values, duals.eta(), config.kl_bound),
            (costs, duals.penalty_eta(), config.penalty_bound),
        ):
            weights = weights + torch.softmax(scores / eta.detach(), -1)
            soft = torch.logsumexp(scores / eta, -1) - math.log(scores.shape[-1])
            dual_loss = dual_loss + eta * (bound + self.mean(soft, data.valid))
        loc, scale = policy.base_dist.loc[:, :-1], policy.base_dist.scale[:, :-1]
        old_loc, old_scale = slow_policy.base_dist.loc[:, :-1], slow_policy.base_dist.scale[:, :-1]
        loss = 0.0
        for parts, multiplier, bound in (
            ((loc, old_scale), duals.mean(), config.mean_bound),
            ((old_loc, scale), duals.std(), config.std_bound),
        ):
            normal = Normal(*parts, validate_args=False)
            tiled = Independent(Normal(parts[0][:, :, None], parts[1][:, :, None], validate_args=False), 1)
            loss = loss - self.mean((weights * tiled.log_prob(actions)).sum(-1), data.valid)
            each = kl_divergence(Normal(old_loc, old_scale, validate_args=False), normal)
            mean = (each * data.valid[..., None]).sum((0, 1)) / data.valid.sum()
            loss = loss + (multiplier.detach() * mean).sum()
            dual_loss = dual_loss + (multiplier * (bound - mean.detach())).sum()
        if not isinstance(penalty, float):
            loss = loss + self.mean(penalty[:, :-1], data.valid)
        self.descend("actor", loss)
        distilled = self.distil(data, policy)
        self.descend("extra", dual_loss)
        return distilled | {
            "value_error": critic_loss,
            "target_value": self.mean(target, data.valid),
            "policy_value": self.mean(values.mean(-1), data.valid),
            "trace": self.mean(trace, data.valid),
        }

    def iwpl(self, data: ChunkBatch) -> dict[str, Tensor]:
        """IWPL with the consistent soft value."""
        alpha = self.extra()
        with torch.no_grad():
            actions = self.sample(self.slow["prior"](data.obs))
            values = self.values(self.slow["critic"], data.obs, actions, data.task)
            soft = torch.logsumexp(values / alpha, -1) - math.log(values.shape[-1])
            target = data.reward + self.config.gamma * data.discount * alpha * soft[:, 1:]
        critic_loss = self.fit_critic(data, target)
        weights = torch.softmax(values[:, :-1] / alpha.detach(), -1)
        prior = self.networks["prior"](data.obs[:, :-1])
        loc, scale = prior.base_dist.loc[:, :, None], prior.base_dist.scale[:, :, None]
        log_prob = Independent(Normal(loc, scale, validate_args=False), 1).log_prob(actions[:, :-1])
        prior_loss = self.mean(-(weights * log_prob).sum(-1), data.valid)
        self.descend("prior", prior_loss)
        soft = torch.logsumexp(values[:, :-1] / alpha, -1) - math.log(values.shape[-1])
        self.descend("extra", alpha * (self.bound + self.mean(soft, data.valid)))
        return {
            "value_error": critic_loss,
            "target_value": self.mean(target, data.valid),
            "prior_loss": prior_loss,
            "alpha": alpha,
        }
