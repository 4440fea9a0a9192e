"""A simple implementation of the updates of ProMP and MAML: a loop over tasks with PyTorch's own parts.

Functional calls of an `nn.Module`, `torch.distributions`, `torch.autograd.grad` with a graph for the
inner step, one task after the other. It uses the samples collected by an `AdaptivePolicy`. If the
algorithm allows it, the graph of each task is freed before the next one is built.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import functional_call

from metarl_agents.algorithms.maml import MAML
from metarl_agents.algorithms.promp import ProMP
from metarl_agents.trials.episodes import Sample
from metarl_agents.trials.trust_region import TrustRegion, conjugate_gradient, flat

Theta = dict[str, Tensor]


class Perceptron(nn.Module):
    """Two tanh layers, a linear mean, and log sigma as a parameter."""

    def __init__(self, inputs: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(),
            nn.Linear(hidden, actions),
        )  # fmt: skip
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, obs: Tensor) -> Independent:
        """Action distributions."""
        return Independent(Normal(self.mean(obs), self.log_std.exp()), 1)


class Straightforward:
    """Samples of every task, and a copy of the network that learns from them."""

    def __init__(self, algorithm: ProMP | MAML, alpha: float) -> None:
        model = algorithm.policy.model
        weights = dict(model.named_parameters())
        hidden, inputs = weights["weight_0"].shape
        self.net = Perceptron(inputs, hidden, len(weights["bias_2"]))
        with torch.no_grad():
            for layer, number in ((0, 0), (2, 1), (4, 2)):
                self.net.mean[layer].weight.copy_(weights[f"weight_{number}"])
                self.net.mean[layer].bias.copy_(weights[f"bias_{number}"])
            self.net.log_std.copy_(weights["log_std"])
        self.alpha = alpha
        self.before, self.after = algorithm.policy.samples

    def adapted(self, sample: Sample, task: int, *, ratio: bool, create_graph: bool = True) -> Theta:
        """One inner step of a task."""
        theta = dict(self.net.named_parameters())
        log_prob = functional_call(self.net, theta, (sample.obs[task],)).log_prob(sample.act[task])
        weighed = (log_prob - sample.old_log_prob[task]).exp() if ratio else log_prob
        loss = -(weighed * sample.advantage[task]).mean()
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=create_graph)
        return {name: p - self.alpha * g for (name, p), g in zip(theta.items(), gradients, strict=True)}

    def old(self, sample: Sample, task: int) -> Independent:
        """The policy that acted."""
        return Independent(Normal(sample.old.mean[task], sample.old.log_std[task].exp()), 1)

    def parameters(self) -> Tensor:
        """All parameters in the order of `GaussianMLP`'s."""
        named = dict(self.net.named_parameters())
        order = [f"mean.{layer}.{part}" for layer in (0, 2, 4) for part in ("weight", "bias")]
        return flat([named[name].detach() for name in (*order, "log_std")])


def promp_update(ours: ProMP) -> Callable[[], Tensor]:
    """Returns a function that takes ProMP's outer steps from the same parameters and returns the result."""
    config = ours.config
    loop = Straightforward(ours, config.inner_step_size)
    start = {name: value.clone() for name, value in loop.net.state_dict().items()}

    def run() -> Tensor:
        loop.net.load_state_dict(start)
        optimiser = torch.optim.Adam(loop.net.parameters(), config.learning_rate, fused=True)
        tasks = len(loop.after.obs)
        for _ in range(config.outer_steps):
            optimiser.zero_grad()
            for task in range(tasks):
                theta = loop.adapted(loop.before, task, ratio=True)
                new = functional_call(loop.net, theta, (loop.after.obs[task],))
                log_prob = new.log_prob(loop.after.act[task])
                ratio = (log_prob - loop.after.old_log_prob[task]).exp()
                advantage = loop.after.advantage[task]
                clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
                surrogate = -torch.min(ratio * advantage, clipped * advantage).mean()
                now = loop.net(loop.before.obs[task])
                penalty = kl_divergence(loop.old(loop.before, task), now).mean()
                ((surrogate + config.kl_penalty * penalty) / tasks).backward()
            optimiser.step()
        return loop.parameters()

    return run


def maml_update(ours: MAML) -> Callable[[], Tensor]:
    """Returns a function that takes MAML's outer step from the same parameters and returns the result."""
    config, region = ours.config, TrustRegion(radius=ours.config.trust_radius)
    loop = Straightforward(ours, config.inner_step_size)
    start = {name: value.clone() for name, value in loop.net.state_dict().items()}
    parameters = list(loop.net.parameters())
    # Drawn here, while our policy is where the step starts, as our step draws it. Pieces are single tasks.
    generator = torch.Generator().manual_seed(0)
    generator.set_state(ours.generator.get_state())
    seed = int(torch.randint(2**62, (), generator=generator))
    few = [ours.curvature_objective(slice(task, task + 1), seed) for task in range(len(loop.after.obs))]

    def terms(before: Sample, after: Sample, task: int, *, create_graph: bool) -> tuple[Tensor, Tensor]:
        theta = loop.adapted(before, task, ratio=False, create_graph=create_graph)
        with torch.set_grad_enabled(create_graph):
            new = functional_call(loop.net, theta, (after.obs[task],))
            ratio = (new.log_prob(after.act[task]) - after.old_log_prob[task]).exp()
            return -(ratio * after.advantage[task]).mean(), kl_divergence(loop.old(after, task), new).mean()

    def run() -> Tensor:
        loop.net.load_state_dict(start)
        tasks = len(loop.after.obs)
        slope, before = torch.zeros_like(flat(parameters)), 0.0
        for task in range(tasks):
            loss = terms(loop.before, loop.after, task, create_graph=True)[0] / tasks
            slope += flat(torch.autograd.grad(loss, parameters))
            before += float(loss.detach())
        kls = [terms(part.inner[0], part.outer, 0, create_graph=True)[1] for part in few]
        kl = torch.stack(kls).mean()
        gradient = flat(torch.autograd.grad(kl, parameters, create_graph=True))

        def product(vector: Tensor) -> Tensor:
            image = torch.autograd.grad(gradient @ vector, parameters, retain_graph=True)
            return flat(image) + region.damping * vector

        direction = conjugate_gradient(product, slope, region.iterations)
        scale = (2 * region.radius / (direction @ product(direction))).sqrt()
        origin, length = flat(parameters).detach().clone(), 1.0
        for _ in range(region.tries):
            nn.utils.vector_to_parameters(origin - length * scale * direction, parameters)
            pairs = [terms(loop.before, loop.after, task, create_graph=False) for task in range(tasks)]
            loss, kl = (float(torch.stack(column).mean()) for column in zip(*pairs, strict=True))
            if loss < before and kl <= region.radius:
                return loop.parameters()
            length *= region.shrink
        nn.utils.vector_to_parameters(origin, parameters)
        return loop.parameters()

    return run
