"""Functional policies, inner steps and MAML's objective against references in double precision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from metarl_agents.algorithms.maml import MetaObjective
from metarl_agents.networks.functional import Gaussian, GaussianMLP, TaskModel
from metarl_agents.trials.adaptation import (
    StepSizes,
    adapted,
    chunks,
    clipped_loss,
    distribution,
    likelihood_loss,
    mean_kl,
    moved,
    ratio_loss,
    task_gradients,
)
from metarl_agents.trials.episodes import Sample
from metarl_agents.trials.trust_region import (
    flat,
    hessian_product,
)


def policy(seed=0, state_std=False):
    generator = torch.Generator().manual_seed(seed)
    return GaussianMLP(3, (5, 4), 2, generator=generator, state_std=state_std).double()


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("state_std", [False, True])
def test_densities_and_divergences_are_those_of_pytorch(state_std):
    a, b = policy(0, state_std), policy(1, state_std)
    if not state_std:
        with torch.no_grad():
            a.log_std += 0.3
            b.log_std -= torch.tensor([0.2, 0.5], dtype=torch.float64)
    obs, action = randn(7, 3), randn(7, 2, seed=2)
    first, second = a(obs), b(obs)
    reference = [Independent(Normal(g.mean, g.log_std.exp().expand_as(g.mean)), 1) for g in (first, second)]
    torch.testing.assert_close(first.log_prob(action), reference[0].log_prob(action))
    torch.testing.assert_close(second.kl_from(first), kl_divergence(reference[0], reference[1]))
    assert first.kl_from(first).abs().max() < 1e-12


def sample_of(model, obs_TMO, own, seed=5, padded=0):
    """Steps taken by the tasks' policies, with random advantages; the last `padded` did not happen."""
    tasks, steps = obs_TMO.shape[:2]
    with torch.no_grad():
        old = model.distribution(obs_TMO, own, None)
        action = old.mean + old.log_std.exp() * randn(*old.mean.shape, seed=seed)
    weight = torch.zeros(tasks, steps, dtype=torch.float64)
    weight[:, : steps - padded] = 1.0 / (steps - padded)
    log_std = old.log_std.expand(tasks, -1, -1)
    advantage = randn(tasks, steps, seed=seed + 1)
    return Sample(obs_TMO, action, advantage, weight, Gaussian(old.mean, log_std), old.log_prob(action))


@pytest.mark.parametrize("state_std", [False, True])
@pytest.mark.parametrize("tasks", [1, 3])
def test_batched_parameters_are_the_tasks_own(state_std, tasks):
    policies = [policy(seed, state_std) for seed in range(tasks)]
    obs = randn(tasks, 6, 3)
    names = policies[0].own_names
    own = {name: torch.stack([dict(p.named_parameters())[name] for p in policies]) for name in names}
    together = policies[0].distribution(obs, own, None)
    for task, single in enumerate(policies):
        alone = single(obs[task])
        torch.testing.assert_close(together.mean[task], alone.mean)
        expected = alone.log_std.expand_as(alone.mean)
        torch.testing.assert_close(together.log_std[task].expand_as(alone.mean), expected)


class Scalar(TaskModel):
    """A policy N(x, 1) whose one parameter x is also its only state."""

    def __init__(self, value):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def distribution(self, obs_TMO, own, context):
        mean = own["x"][:, None].expand(-1, obs_TMO.shape[1], -1)
        return Gaussian(mean, torch.zeros(1, 1, 1, dtype=torch.float64))


def cubic(new, sample):
    return new.mean[:, 0, 0] ** 3 / 3


def test_an_inner_step_by_hand_and_its_second_derivative():
    # L = x^3 / 3 at x = 2: x' = 2 - 0.1 * 4 = 1.6, and dx' / dx = 1 - 0.1 * 2 * 2 = 0.6.
    model = Scalar(2.0)
    sample = sample_of(model, randn(1, 1, 1), model.start(1))

    def step(second_order, alpha=0.1, **options):
        return adapted(
            model, model.start(1), [sample], cubic, {"x": alpha}, second_order=second_order, **options
        )["x"]

    second = step(True)
    assert second.item() == pytest.approx(1.6)
    assert torch.autograd.grad(second, model.x)[0].item() == pytest.approx(0.6)
    # Without the curvature term the start passes through unchanged.
    assert torch.autograd.grad(step(False), model.x)[0].item() == pytest.approx(1.0)
    # Two steps: x'' = 1.6 - 0.1 * 2.56, dx'' / dx = (1 - 0.1 * 2 * 1.6) * 0.6.
    twice = adapted(model, model.start(1), [sample, sample], cubic, {"x": 0.1}, second_order=True)["x"]
    assert twice.item() == pytest.approx(1.344)
    assert torch.autograd.grad(twice, model.x)[0].item() == pytest.approx(0.68 * 0.6)
    # The derivative with respect to a learned step size is minus the gradient.
    alpha = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(step(True, alpha), alpha)[0].item() == pytest.approx(-4.0)
    # A gradient of 4, bounded to 1; and no step where there is nothing to learn from.
    assert step(True, max_norm=1.0).item() == pytest.approx(1.9)
    assert adapted(model, model.start(2), [], cubic, {"x": 0.1}, second_order=True)["x"].tolist() == [
        [2.0],
        [2.0],
    ]


def test_gradients_are_bounded_task_by_task():
    model = policy()
    own = model.start(2)
    sample = sample_of(model, randn(2, 9, 3), own)
    sample.advantage[0] *= 1000.0

    def norms(max_norm):
        found = task_gradients(
            own,
            likelihood_loss(distribution(model, own, sample), sample),
            create_graph=False,
            max_norm=max_norm,
        )
        return torch.stack([g.flatten(1).norm(dim=1) for g in found.values()]).norm(dim=0)

    free = norms(None)
    bound = float(free[1]) * 1.5
    assert norms(bound)[0].item() == pytest.approx(bound)
    assert norms(bound)[1].item() == pytest.approx(free[1].item())


def meta_gradient(model, inner, outer, second_order, size):
    """The gradient of the tasks' outer surrogates through their inner steps, `size` tasks together."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    for first in range(0, len(outer.obs), size):
        rows = slice(first, first + size)
        part = outer.rows(rows)
        own = adapted(
            model,
            model.start(len(part.obs)),
            [inner.rows(rows)],
            likelihood_loss,
            dict.fromkeys(model.own_names, 0.2),
            second_order=second_order,
        )
        loss = ratio_loss(distribution(model, own, part), part).sum()
        for place, gradient in zip(total, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            place += gradient
    return flat(total)


def meta_batch(tasks=3, steps=8):
    model = policy()
    inner = sample_of(model, randn(tasks, steps, 3), model.start(tasks))
    outer = sample_of(model, randn(tasks, steps, 3, seed=2), model.start(tasks), seed=8)
    return model, inner, outer


def test_the_second_order_meta_gradient_against_double_backward():
    # An independent form of the same: task after task, PyTorch's distributions and function transforms.
    model, inner, outer = meta_batch()

    def mean_loss(theta, sample, task, ratio):
        new = torch.func.functional_call(model, theta, (sample.obs[task],))
        normal = Independent(Normal(new.mean, new.log_std.exp().expand_as(new.mean)), 1)
        log_prob = normal.log_prob(sample.act[task])
        weighed = (log_prob - sample.old_log_prob[task]).exp() if ratio else log_prob
        return -(weighed * sample.advantage[task]).mean()

    def surrogate(theta, task):
        slope = torch.func.grad(lambda p: mean_loss(p, inner, task, False))(theta)
        after = {name: value - 0.2 * slope[name] for name, value in theta.items()}
        return mean_loss(after, outer, task, True)

    theta = {name: p.detach() for name, p in model.named_parameters()}
    expected = torch.func.grad(lambda p: sum(surrogate(p, task) for task in range(3)))(theta)
    for size in (1, 2, 3):
        measured = meta_gradient(model, inner, outer, True, size)
        torch.testing.assert_close(measured, flat([expected[n] for n in theta]), rtol=1e-9, atol=1e-11)


def test_maml_objective_and_its_curvature_products_against_function_transforms():
    """Surrogate, divergence, gradient and Hessian-vector product, all through the inner step."""
    model, inner, outer = meta_batch()
    policy_parts = SimpleNamespace(
        model=model,
        inner_loss=likelihood_loss,
        step_sizes=StepSizes(model.start(1), 0.2, learned=False),
        max_norm=None,
    )
    objective = MetaObjective(policy_parts, [inner], outer, second_order=True)
    parameters, names = list(model.parameters()), [name for name, _ in model.named_parameters()]

    def normal(theta, sample, task):
        new = torch.func.functional_call(model, theta, (sample.obs[task],))
        return Independent(Normal(new.mean, new.log_std.exp().expand_as(new.mean)), 1)

    def after(theta, task):
        def loss(p):
            log_prob = normal(p, inner, task).log_prob(inner.act[task])
            return -(log_prob * inner.advantage[task]).mean()

        slope = torch.func.grad(loss)(theta)
        return normal({name: theta[name] - 0.2 * slope[name] for name in theta}, outer, task)

    def surrogate(theta):
        logs = [after(theta, task).log_prob(outer.act[task]) - outer.old_log_prob[task] for task in range(3)]
        return sum(-(log.exp() * outer.advantage[task]).mean() for task, log in enumerate(logs)) / 3

    def divergence(theta):
        olds = [Independent(Normal(m, s.exp().expand_as(m)), 1) for m, s in zip(*outer.old, strict=True)]
        return sum(kl_divergence(old, after(theta, task)).mean() for task, old in enumerate(olds)) / 3

    theta = {name: p.detach() for name, p in zip(names, parameters, strict=True)}
    expected = (float(surrogate(theta)), float(divergence(theta)))
    assert objective.values().tolist() == pytest.approx(expected, rel=1e-9)
    assert objective.divergence().item() == pytest.approx(expected[1], rel=1e-9)
    value, slope = objective.gradient(parameters)
    assert float(value) == pytest.approx(expected[0], rel=1e-9)
    by_hand = torch.func.grad(surrogate)(theta)
    torch.testing.assert_close(slope, flat([by_hand[name] for name in names]), rtol=1e-8, atol=1e-10)
    vector = randn(len(slope), seed=4)
    tangent, start = {}, 0
    for name in names:
        size = theta[name].numel()
        tangent[name] = vector[start : start + size].view_as(theta[name])
        start += size
    _, image = torch.func.jvp(torch.func.grad(divergence), (theta,), (tangent,))
    product = hessian_product(objective.divergence(), parameters)(vector)
    torch.testing.assert_close(product, flat([image[name] for name in names]), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_curvature_is_taken_where_the_divergence_is_zero(fraction):
    """Also from few steps, from which other policies adapt than those that acted."""
    model, inner, outer = meta_batch()
    policy_parts = SimpleNamespace(
        model=model,
        inner_loss=likelihood_loss,
        step_sizes=StepSizes(model.start(1), 0.2, learned=False),
        max_norm=None,
    )
    whole = MetaObjective(policy_parts, [inner], outer, second_order=True)
    few = whole.curvature_sample(fraction, torch.Generator().manual_seed(0))
    assert few.outer.obs.shape == (3, round(8 * fraction), 3)
    assert few.inner[0].obs.shape == (3, round(8 * fraction), 3)
    assert whole.divergence().item() > 1e-3
    assert abs(few.divergence().item()) < 1e-12
    parameters = list(model.parameters())
    assert flat(torch.autograd.grad(few.divergence(), parameters)).abs().max() < 1e-12
    product = hessian_product(few.divergence(), parameters)
    for seed in range(5):
        vector = randn(len(flat(parameters)), seed=seed)
        assert (vector @ product(vector)).item() > -1e-12


def test_first_order_is_second_order_without_the_curvature_term():
    model, inner, outer = meta_batch(tasks=1)
    parameters = list(model.parameters())
    second = meta_gradient(model, inner, outer, True, 1)
    first = meta_gradient(model, inner, outer, False, 1)
    # d outer / d theta = (I - alpha H) g with g the outer gradient at theta' and H the inner Hessian.
    start = model.start(1)
    slopes = task_gradients(
        start, likelihood_loss(distribution(model, start, inner), inner), create_graph=True
    )
    after = moved(start, slopes, dict.fromkeys(start, 0.2))
    leaves = {name: value.detach().requires_grad_() for name, value in after.items()}
    loss = ratio_loss(distribution(model, leaves, outer), outer).sum()
    g = flat(torch.autograd.grad(loss, list(leaves.values())))
    torch.testing.assert_close(first, g)
    hessian_g = flat(torch.autograd.grad(flat(list(slopes.values())) @ g, parameters))
    torch.testing.assert_close(second, g - 0.2 * hessian_g)


def test_the_losses_by_hand():
    model = Scalar(0.5)
    own = model.start(1)
    sample = sample_of(model, randn(1, 3, 1), own, padded=1)
    actions, advantages = sample.act[0, :2, 0].numpy(), sample.advantage[0, :2].numpy()
    new = Gaussian(torch.full((1, 3, 1), 1.5, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64))
    log_new = -0.5 * (actions - 1.5) ** 2 - 0.5 * np.log(2 * np.pi)
    ratio = np.exp(log_new - (-0.5 * (actions - 0.5) ** 2 - 0.5 * np.log(2 * np.pi)))
    assert likelihood_loss(new, sample).item() == pytest.approx(-(log_new * advantages).mean())
    assert ratio_loss(new, sample).item() == pytest.approx(-(ratio * advantages).mean())
    clipped = np.minimum(ratio * advantages, ratio.clip(0.8, 1.2) * advantages)
    assert clipped_loss(new, sample, 0.2).item() == pytest.approx(-clipped.mean())
    assert mean_kl(new, sample).item() == pytest.approx(0.5)  # (1.5 - 0.5)^2 / 2
    # At the policy that acted, both inner losses have the same gradient.
    slopes = [
        task_gradients(own, f(distribution(model, own, sample), sample), create_graph=False)
        for f in (likelihood_loss, ratio_loss)
    ]
    torch.testing.assert_close(slopes[0]["x"], slopes[1]["x"])


def test_parts_of_a_sample():
    model = policy()
    sample = sample_of(model, randn(3, 6, 3), model.start(3), padded=2)
    shorter = sample._replace(weight=sample.weight.clone())
    shorter.weight[0, 3] = 0
    # Without the padding that only other tasks need.
    assert shorter.rows(slice(0, 1)).obs.equal(sample.obs[:1, :3])
    assert shorter.rows(slice(0, 3)).obs.equal(sample.obs[:, :4])
    assert shorter.rows(slice(1, 3)).old.mean.equal(sample.old.mean[1:, :4])
    few = sample.steps(torch.tensor([[0, 5], [3, 1], [4, 2]]))
    assert few.obs[1, 0].equal(sample.obs[1, 3])
    assert few.old.mean[2, 1].equal(sample.old.mean[2, 2])
    # Weights again sum to one over what happened: of task 0 only the first of the two did.
    assert few.weight.tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]


@given(st.integers(1, 50), st.integers(1, 60))
def test_chunks_cover_all_tasks_once(tasks, size):
    found = chunks(tasks, size)
    assert [t for rows in found for t in range(rows.start, rows.stop)] == list(range(tasks))
    assert all(rows.stop - rows.start == size for rows in found[:-1])


def test_step_sizes_are_constant_or_learned_within_their_bound():
    own = policy().start(2)
    constant = StepSizes(own, 0.3, learned=False)
    assert set(constant.by_name().values()) == {0.3}
    assert not list(constant.parameters())
    learned = StepSizes(own, 0.05, learned=True, bound=0.1)
    shapes = {name: value.shape[1:] for name, value in own.items()}
    assert {name: value.shape for name, value in learned.by_name().items()} == shapes
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter += 1.0
    assert all((value == 0.1).all() for value in learned.by_name().values())


def test_the_clipped_surrogate_by_hand():
    """Ratios .5, 1.1, 2 with advantages of both signs, clipped at .7 and 1.3; two tasks, one shorter."""
    ratio = torch.tensor([[0.5, 1.1, 2.0], [0.5, 2.0, 9.0]], dtype=torch.float64)
    advantage = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0.0]], dtype=torch.float64)
    zeros = torch.zeros(2, 3, 1, dtype=torch.float64)
    new = Gaussian(zeros, zeros)
    sample = Sample(zeros, zeros, advantage, weight, new, new.log_prob(zeros) - ratio.log())
    expected = [-(0.5 + 1.1 + 1.3) / 3, -(-0.7 - 2.0) / 2]
    torch.testing.assert_close(clipped_loss(new, sample, 0.3), torch.tensor(expected, dtype=torch.float64))
    plain = [-(0.5 + 1.1 + 2.0) / 3, -(-0.5 - 2.0) / 2]
    torch.testing.assert_close(ratio_loss(new, sample), torch.tensor(plain, dtype=torch.float64))


@pytest.mark.parametrize(
    ("max_norm", "norms"), [(None, [0.5, 2.0, 0.0]), (1.0, [0.5, 1.0, 0.0]), (0.1, [0.1, 0.1, 0.0])]
)
def test_a_tasks_gradient_is_clipped_by_its_own_norm(max_norm, norms):
    own = {name: torch.zeros(3, 2, dtype=torch.float64, requires_grad=True) for name in ("a", "b")}
    size = torch.tensor([0.25, 1.0, 0.0], dtype=torch.float64)  # four entries: twice this is the norm
    losses = size * (own["a"].sum(1) + own["b"].sum(1))
    found = task_gradients(own, losses, create_graph=False, max_norm=max_norm)
    measured = torch.cat([found["a"], found["b"]], 1).norm(dim=1)
    torch.testing.assert_close(measured, torch.tensor(norms, dtype=torch.float64))
