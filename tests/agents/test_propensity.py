"""Propensity weights, effective sample size and the proximal term against closed forms."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metarl_agents.replay.propensity import Propensity, effective_sample_size
from metarl_agents.replay.proximal import Anchor


def test_weights_are_the_odds_of_new_against_old():
    """Two Gaussians of unit variance: log odds are linear, with known slope and intercept."""
    g = np.random.default_rng(0)
    new, old = g.normal(1.0, 1.0, (40_000, 1)), g.normal(-0.5, 1.0, (40_000, 1))
    fitted = Propensity.fit(new, old, inverse_penalty=1e6)
    x = torch.linspace(-2, 2, 9)[:, None]
    # log N(x; 1, 1) - log N(x; -0.5, 1) = 1.5 x - 0.375.
    expected = (1.5 * x[:, 0] - 0.375).exp()
    torch.testing.assert_close(fitted.odds(x, clip=99.0, floor=0.0), expected, rtol=0.05, atol=0.02)
    # More new data than old shifts the odds by the ratio, as an odds ratio should.
    skewed = Propensity.fit(new, old[:10_000], inverse_penalty=1e6)
    torch.testing.assert_close(skewed.odds(x, clip=99.0, floor=0.0), 4 * expected, rtol=0.1, atol=0.02)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(2, 30), st.integers(2, 30), st.sampled_from([0.05, 0.1, 0.5, 1.0]))
def test_the_classifier_minimises_the_penalised_likelihood(seed, new_count, old_count, inverse_penalty):
    g = np.random.default_rng(seed)
    new, old = g.normal(0.7, 1.0, (new_count, 3)), g.normal(-0.2, 2.0, (old_count, 3))
    fitted = Propensity.fit(new, old, inverse_penalty)
    samples = np.concatenate((new, old))
    labels = np.repeat((-1.0, 1.0), (new_count, old_count))

    def objective(parameters):
        margins = labels * (samples @ parameters[:3] + parameters[3])
        return inverse_penalty * np.logaddexp(0, -margins).sum() + 0.5 * (parameters[:3] ** 2).sum()

    best = scipy.optimize.minimize(objective, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fitted.weights.numpy(), best.x[:3], atol=2e-3)
    assert fitted.bias == pytest.approx(best.x[3], abs=2e-3)


def test_weights_are_clipped_above_and_cut_off_below():
    fitted = Propensity(torch.tensor([1.0]), 0.0)
    x = torch.tensor([[-5.0], [-1.0], [0.0], [2.0], [3.0]])
    odds = fitted.odds(x, clip=1.0, floor=0.1)
    expected = torch.tensor([math.e, math.e, 1.0, math.exp(-2.0), 0.0])
    torch.testing.assert_close(odds, expected)
    features = x.clone().requires_grad_(True)
    assert not fitted.odds(features, clip=1.0, floor=0.1).requires_grad


def test_fitting_needs_both_sides():
    with pytest.raises(ValueError, match="needs new and old data"):
        Propensity.fit(np.zeros((0, 2)), np.ones((3, 2)), 1.0)


# Squares of smaller weights have lost digits, or are zero.
@given(st.lists(st.just(0.0) | st.floats(1e-100, 9.0), min_size=1, max_size=50))
def test_effective_sample_size_lies_between_one_sample_and_all(weights):
    w = torch.tensor(weights, dtype=torch.float64)
    ess = effective_sample_size(w).item()
    if w.square().sum() == 0:
        assert math.isnan(ess)
    else:
        assert 1 / len(w) - 1e-9 <= ess <= 1 + 1e-9


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 5.0))
def test_effective_sample_size_of_equal_weights_is_their_share(used, unused, weight):
    w = torch.tensor([weight] * used + [0.0] * unused, dtype=torch.float64)
    assert effective_sample_size(w).item() == pytest.approx(used / (used + unused))
    assert effective_sample_size(w[:used]).item() == pytest.approx(1.0)


def test_effective_sample_size_by_hand():
    # (1 + 2 + 3)^2 / (3 (1 + 4 + 9)) = 36 / 42.
    assert effective_sample_size(torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(36 / 42)


def test_the_proximal_term_pulls_back_with_twice_the_distance():
    module = nn.Linear(2, 1)
    anchor = Anchor(module)
    assert anchor.distance().item() == 0.0
    moved = {name: p.detach().clone() for name, p in module.named_parameters()}
    with torch.no_grad():
        module.weight += torch.tensor([[0.5, -1.0]])
        module.bias += 2.0
    distance = anchor.distance()
    assert distance.item() == pytest.approx(0.25 + 1.0 + 4.0)
    (0.3 * distance).backward()
    torch.testing.assert_close(module.weight.grad, 0.6 * torch.tensor([[0.5, -1.0]]))
    torch.testing.assert_close(module.bias.grad, torch.tensor([1.2]))
    # A gradient step of 1 / (2 lambda) lands on the anchor.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= parameter.grad / 0.6
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), moved[name])
