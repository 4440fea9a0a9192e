"""Returns, baseline and advantages against loops in double precision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_agents.trials.advantages import (
    baseline_features,
    discounted_sums,
    fit_linear,
    task_advantages,
)


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
