"""Functional policies, inner step, advantages and trust region against references in double precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metarl_agents.inner_step import inner_step
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from metarl_agents.advantages import (
    baseline_features,
    discounted_sums,
    fit_linear,
    task_advantages,
)
from metarl_agents.functional import Gaussian, GaussianMLP, stacked
from metarl_agents.trust_region import (
    TrustRegion,
    conjugate_gradient,
    curvature_product,
    flat,
    trust_region_step,
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


@pytest.mark.parametrize("state_std", [False, True])
def test_batched_parameters_are_the_tasks_own(state_std):
    policies = [policy(seed, state_std) for seed in range(3)]
    obs = randn(3, 6, 3)
    together = policies[0](obs, stacked([p.parameter_dict() for p in policies]))
    for task, own in enumerate(policies):
        alone = own(obs[task])
        torch.testing.assert_close(together.mean[task], alone.mean)
        expected = alone.log_std.expand_as(alone.mean)
        torch.testing.assert_close(together.log_std[task].expand_as(alone.mean), expected)


def test_an_inner_step_by_hand_and_its_second_derivative():
    # L = theta^3 / 3 at theta = 2: theta' = 2 - 0.1 * 4 = 1.6 and d theta' / d theta = 1 - 0.1 * 2 * 2.
    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = lambda p: p["x"] ** 3 / 3  # noqa: E731
    moved = inner_step({"x": theta}, loss, 0.1)["x"]
    assert moved.item() == pytest.approx(1.6)
    (second,) = torch.autograd.grad(moved, theta)
    assert second.item() == pytest.approx(0.6)
    (first,) = torch.autograd.grad(inner_step({"x": theta}, loss, 0.1, second_order=False)["x"], theta)
    assert first.item() == pytest.approx(1.0)
    # The derivative with respect to a learned step size is minus the gradient.
    alpha = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (by_alpha,) = torch.autograd.grad(inner_step({"x": theta}, loss, {"x": alpha})["x"], alpha)
    assert by_alpha.item() == pytest.approx(-4.0)
    # A bound on the gradient's norm, and parameters that stay.
    assert inner_step({"x": theta}, loss, 0.1, max_norm=1.0)["x"].item() == pytest.approx(1.9)
    parameters = {"x": theta, "y": theta.detach().clone().requires_grad_()}
    both = inner_step(parameters, lambda p: p["x"] * p["y"], 0.5, adapted=("y",))
    assert both["x"] is theta
    assert both["y"].item() == pytest.approx(1.0)


def test_first_order_is_second_order_without_the_curvature_term():
    p = policy()
    obs, weigh = randn(9, 3), randn(9, 2, seed=3)

    def loss(parameters):
        return (p(obs, parameters).mean * weigh).sum().tanh()

    def outer(parameters):
        return p(obs[:4], parameters).mean.square().sum()

    names = [name for name, _ in p.named_parameters() if name != "log_std"]
    parameters = p.parameter_dict()

    def gradient(second_order):
        moved = inner_step(parameters, loss, 0.2, adapted=names, second_order=second_order)
        return flat(torch.autograd.grad(outer(moved), [parameters[n] for n in names])), moved

    second, moved = gradient(True)
    first, _ = gradient(False)
    # d outer / d theta = (I - alpha H) g with g the outer gradient at theta' and H the inner Hessian.
    leaves = {name: value.detach().requires_grad_() for name, value in moved.items()}
    g = flat(torch.autograd.grad(outer(leaves), [leaves[n] for n in names]))
    torch.testing.assert_close(first, g)
    inner = flat(torch.autograd.grad(loss(parameters), [parameters[n] for n in names], create_graph=True))
    hessian_g = flat(torch.autograd.grad(inner @ g, [parameters[n] for n in names]))
    torch.testing.assert_close(second, g - 0.2 * hessian_g)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.floats(0.0, 1.0), st.integers(0, 999))
def test_discounted_sums_are_the_sums(steps, discount, seed):
    values = np.random.default_rng(seed).normal(size=(2, steps))
    expected = [
        [sum(discount ** (k - t) * row[k] for k in range(t, steps)) for t in range(steps)] for row in values
    ]
    np.testing.assert_allclose(discounted_sums(values, discount), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_advantages_against_a_loop_over_steps(seed, gamma, gae_lambda):
    g = np.random.default_rng(seed)
    tasks, episodes, steps = 2, 3, 7
    obs, rewards = g.normal(size=(tasks, episodes, steps, 2)) * 3, g.normal(size=(tasks, episodes, steps))
    lengths = g.integers(2, steps + 1, (tasks, episodes))
    valid = np.arange(steps) < lengths[..., None]
    measured, returns = task_advantages(obs, rewards, valid, gamma=gamma, gae_lambda=gae_lambda)
    for task in range(tasks):
        samples, targets = [], []
        for e in range(episodes):
            for t in range(lengths[task, e]):
                o = np.clip(obs[task, e, t], -10, 10)
                samples.append([*o, *o**2, t / 100, (t / 100) ** 2, (t / 100) ** 3, 1.0])
                targets.append(
                    sum(gamma ** (k - t) * rewards[task, e, k] for k in range(t, lengths[task, e]))
                )
        x, y = np.array(samples), np.array(targets)
        w = np.linalg.solve(x.T @ x + 1e-5 * np.eye(x.shape[1]), x.T @ y)
        values, plain = iter(x @ w), []
        for e in range(episodes):
            v = [next(values) for _ in range(lengths[task, e])] + [0.0]
            deltas = [rewards[task, e, t] + gamma * v[t + 1] - v[t] for t in range(lengths[task, e])]
            plain += [
                sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, len(deltas)))
                for t in range(len(deltas))
            ]
        plain = (np.array(plain) - np.mean(plain)) / (np.std(plain) + 1e-8)
        np.testing.assert_allclose(measured[task][valid[task]], plain, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(returns[task][valid[task]], y, rtol=1e-9, atol=1e-9)
    assert (measured[~valid] == 0).all()


def test_the_baseline_is_a_ridge_regression_on_the_published_features():
    obs = np.array([[[20.0, -3.0], [0.5, 1.0]]])
    features = baseline_features(obs)
    expected = [0.5, 1.0, 0.25, 1.0, 0.01, 0.01**2, 0.01**3, 1.0]
    assert features[0, 1].tolist() == pytest.approx(expected)
    assert features[0, 0, :4].tolist() == [10.0, -3.0, 100.0, 9.0]
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.testing.assert_allclose(fit_linear(x, x @ [1.0, -2.0, 0.5]), [1.0, -2.0, 0.5], atol=1e-5)
    # A feature that never varies leaves the others alone.
    flat_x = np.concatenate((x, np.zeros((50, 1))), 1)
    np.testing.assert_allclose(fit_linear(flat_x, x @ [1.0, -2.0, 0.5])[:3], [1.0, -2.0, 0.5], atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(0, 99))
def test_conjugate_gradient_solves(size, seed):
    m = randn(size, size, seed=seed)
    matrix, target = m @ m.T + torch.eye(size, dtype=torch.float64), randn(size, seed=seed + 1)
    solution = conjugate_gradient(lambda v: matrix @ v, target, iterations=3 * size, tolerance=1e-24)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-6, atol=1e-8)


def test_curvature_products_are_those_of_the_full_hessian():
    p = policy()
    obs = randn(20, 3)
    old = p(obs).detach()
    parameters = list(p.parameters())

    def kl():
        return p(obs).kl_from(old).mean()

    product = curvature_product(kl, parameters, damping=0.1)
    gradient = flat(torch.autograd.grad(kl(), parameters, create_graph=True))
    rows = [flat(torch.autograd.grad(x, parameters, retain_graph=True)) for x in gradient]
    hessian, vector = torch.stack(rows), randn(len(gradient), seed=5)
    torch.testing.assert_close(product(vector), hessian @ vector + 0.1 * vector, rtol=1e-8, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(1e-4, 0.5), st.floats(0.1, 100.0))
def test_a_step_never_leaves_its_region_and_never_makes_things_worse(seed, radius, scale):
    p = policy(seed)
    obs, action = randn(30, 3, seed=seed), randn(30, 2, seed=seed + 1)
    advantage = scale * randn(30, seed=seed + 2)
    old = p(obs).detach()
    old_log_prob = old.log_prob(action)
    before = flat([q.detach() for q in p.parameters()]).clone()

    def loss_and_kl():
        new = p(obs)
        ratio = (new.log_prob(action) - old_log_prob).exp()
        return -(ratio * advantage).mean(), new.kl_from(old).mean()

    result = trust_region_step(p, loss_and_kl, TrustRegion(radius=radius))
    loss, kl = (float(x) for x in loss_and_kl())
    after = flat([q.detach() for q in p.parameters()])
    if result.accepted:
        assert loss < result.loss_before
        assert kl <= radius
        assert (loss, kl) == pytest.approx((result.loss, result.kl))
        assert not torch.equal(before, after)
    else:
        assert torch.equal(before, after)
    # The first step along a natural gradient of a smooth loss is good.
    assert result.accepted


def test_a_step_that_cannot_help_is_refused_and_leaves_everything():
    module = nn.Linear(2, 1).double()
    before = flat([q.detach() for q in module.parameters()]).clone()
    far = TrustRegion(radius=0.01, tries=3)

    def loss_and_kl():
        moved = flat(list(module.parameters())) - before
        # However small the step, the constraint is violated.
        return flat(list(module.parameters())).sum(), 1e6 * moved.abs().sum() + moved.square().sum()

    result = trust_region_step(
        module, loss_and_kl, far, curvature_kl=lambda: flat(list(module.parameters())).square().sum()
    )
    assert not result.accepted
    assert torch.equal(flat([q.detach() for q in module.parameters()]), before)


def test_a_gaussian_without_gradient_keeps_its_numbers():
    g = Gaussian(torch.ones(2, 2, requires_grad=True), torch.zeros(2))
    assert not g.detach().mean.requires_grad
