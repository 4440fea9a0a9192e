"""Conjugate gradient, curvature products and checked steps against full matrices in double precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metarl_agents.networks.functional import GaussianMLP
from metarl_agents.trials.trust_region import (
    TrustRegion,
    conjugate_gradient,
    flat,
    hessian_product,
    trust_region_step,
)


def policy(seed=0, state_std=False):
    generator = torch.Generator().manual_seed(seed)
    return GaussianMLP(3, (5, 4), 2, generator=generator, state_std=state_std).double()


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    with torch.no_grad():
        old = p(obs)
    parameters = list(p.parameters())

    def kl():
        return p(obs).kl_from(old).mean()

    product = hessian_product(kl(), parameters)
    gradient = flat(torch.autograd.grad(kl(), parameters, create_graph=True))
    rows = [flat(torch.autograd.grad(x, parameters, retain_graph=True)) for x in gradient]
    hessian, vector = torch.stack(rows), randn(len(gradient), seed=5)
    torch.testing.assert_close(product(vector), hessian @ vector, rtol=1e-8, atol=1e-10)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.floats(1e-4, 0.5), st.floats(0.1, 100.0))
def test_a_step_never_leaves_its_region_and_never_makes_things_worse(seed, radius, scale):
    p = policy(seed)
    obs, action = randn(30, 3, seed=seed), randn(30, 2, seed=seed + 1)
    advantage = scale * randn(30, seed=seed + 2)
    with torch.no_grad():
        old = p(obs)
    old_log_prob = old.log_prob(action)
    before = flat([q.detach() for q in p.parameters()]).clone()

    def loss_and_kl():
        new = p(obs)
        ratio = (new.log_prob(action) - old_log_prob).exp()
        return -(ratio * advantage).mean(), new.kl_from(old).mean()

    parameters = list(p.parameters())

    def gradient():
        loss = loss_and_kl()[0]
        return loss.item(), flat(torch.autograd.grad(loss, parameters))

    def evaluate():
        return tuple(float(x) for x in loss_and_kl())

    result = trust_region_step(
        parameters,
        gradient=gradient,
        curvature=lambda: hessian_product(loss_and_kl()[1], parameters),
        evaluate=evaluate,
        region=TrustRegion(radius=radius),
    )
    loss, kl = evaluate()
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
    parameters = list(module.parameters())
    before = flat([q.detach() for q in parameters]).clone()
    tried = []

    def evaluate():
        # However small the step, the constraint is violated.
        tried.append(float((flat([q.detach() for q in parameters]) - before).norm()))
        return float(flat([q.detach() for q in parameters]).sum()), 0.011

    result = trust_region_step(
        parameters,
        gradient=lambda: (float(before.sum()), torch.ones(3, dtype=torch.float64)),
        curvature=lambda: hessian_product(flat(parameters).square().sum(), parameters),
        evaluate=evaluate,
        region=TrustRegion(radius=0.01, tries=3),
    )
    assert not result.accepted
    assert np.diff(tried).max() < 0
    assert len(tried) == 3
    assert torch.equal(flat([q.detach() for q in parameters]), before)
