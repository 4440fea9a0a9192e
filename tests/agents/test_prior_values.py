"""Retrace, importance-weighted soft values and the dual of the temperature, in double precision."""

import math

import numpy as np
import pytest
import torch

from metarl_agents.networks.functional import Gaussian
from metarl_agents.networks.layer_norm import GaussianPolicy
from metarl_agents.priors.values import (
    Positive,
    consistent_soft_value,
    effective_samples,
    kl_from_uniform,
    literal_soft_value,
    log_weights,
    retrace,
    temperature_dual,
    valid_mean,
)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a.detach(), b, rtol=0.0, atol=tolerance)


def hand_made(decay=1.0, terminal=True, valid=(True, True, True), ratios=(0.5, 0.25, 2.0)):
    return retrace(
        double(1.0, 0.0, 2.0)[None],
        double(0.5, 1.0, 1.5)[None],
        double(1.2, 0.7, 0.3)[None],
        0.9 * double(1.0, 1.0, 0.0 if terminal else 1.0)[None],
        double(*ratios).log()[None],
        torch.tensor([valid]),
        decay,
    )


def test_retrace_by_hand():
    close(hand_made().target, double(2.098, 1.08, 2.0)[None])
    close(hand_made(decay=0.0).target, double(2.08, 0.63, 2.0)[None])
    close(hand_made(terminal=False).target, double(2.152675, 1.323, 2.27)[None])
    close(hand_made().trace, double(0.5, 0.25, 1.0)[None])
    # A ratio that overflows in exp is cut at 1.
    close(hand_made(ratios=(0.5, 0.25, math.inf)).target, double(2.098, 1.08, 2.0)[None])


def test_retrace_ends_with_the_chunk():
    """The target of the last step before the padding is a one-step target, whatever the padding holds."""
    cut = hand_made(valid=(True, True, False))
    close(cut.target, double(1.0 + 0.9 * 1.2 + 0.9 * 0.25 * (0.9 * 0.7 - 1.0), 0.9 * 0.7, 0.0)[None])
    strange = retrace(
        double(1.0, 0.0, math.nan)[None], double(0.5, 1.0, math.inf)[None], double(1.2, 0.7, math.nan)[None],
        double(0.9, 0.9, math.nan)[None], double(0.5, 0.25, math.nan).log()[None],
        torch.tensor([[True, True, False]]), 1.0,
    )  # fmt: skip
    assert torch.equal(strange.target, cut.target)
    assert valid_mean(double(2.0, 4.0, math.nan), torch.tensor([True, True, False])) == 3.0


def test_retrace_of_an_on_policy_chunk_is_its_discounted_return():
    g = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(4, 6, generator=g, dtype=torch.float64)  # noqa: E731
    reward, value, ones = draw(), draw(), torch.ones(4, 6, dtype=torch.float64)
    # V' is Q of the action taken: the one-step errors telescope.
    following = torch.cat((value[:, 1:], draw()[:, :1]), 1)
    valid = torch.ones(4, 6, dtype=torch.bool)
    target = retrace(reward, value, following, 0.9 * ones, 0.0 * ones, valid, 1.0).target
    powers = 0.9 ** torch.arange(7, dtype=torch.float64)
    close(target[:, 0], (reward * powers[:6]).sum(1) + powers[6] * following[:, -1])


Q = double(1.0, 2.0, 3.0)


def test_importance_weights_and_soft_values_by_hand():
    close(log_weights(Q, 0.5).exp(), double(0.01587624, 0.11731043, 0.86681333), 1e-8)
    close(kl_from_uniform(log_weights(Q, 0.5)), double(0.6575548446)[0], 1e-10)
    for alpha, value in ((0.5, 2.5221596699), (2.0, 2.1633147640), (0.01, 2.9890138771)):
        close(consistent_soft_value(Q, alpha), double(value)[0], 1e-10)
        logs = log_weights(Q, alpha)
        close((logs.exp() * (Q - alpha * (logs + math.log(3)))).sum(), double(value)[0], 1e-10)
    close(kl_from_uniform(log_weights(Q, 2.0)), double(0.0784209520)[0], 1e-10)
    close(kl_from_uniform(log_weights(Q, 0.01)), double(math.log(3))[0])
    prior = Gaussian(double(0.0), double(0.0))
    log_prior = prior.log_prob(double(-1.0, 0.0, 1.0)[:, None])
    close(literal_soft_value(Q, 0.5, log_prior), double(2.3913241546)[0], 1e-10)
    close(effective_samples(log_weights(Q, 1e9)), double(3.0)[0], 1e-6)
    close(effective_samples(log_weights(Q, 1e-3)), double(1.0)[0])


def test_limits_of_the_temperature():
    close(consistent_soft_value(Q, 1e8), double(2.0)[0], 1e-7)
    # The best of K samples, less alpha log K.
    close(consistent_soft_value(Q, 1e-8), double(3.0)[0], 1e-7)


def test_few_samples_underestimate_the_soft_value():
    """Q(a) = a under N(0, 1): the soft value is .5, and the estimate approaches it from below."""
    g = torch.Generator().manual_seed(0)
    means = [
        float(consistent_soft_value(torch.randn(20_000, k, generator=g, dtype=torch.float64), 1.0).mean())
        for k in (4, 16, 256)
    ]
    assert means == sorted(means)
    assert means[1] == pytest.approx(0.451, abs=0.01)
    assert means[2] == pytest.approx(0.496, abs=0.003)
    assert means[2] < 0.5


def dual_gradient(alpha, bound):
    """Derivative of the dual in alpha."""
    temperature = double(alpha)[0].requires_grad_()
    soft = (Q / temperature).logsumexp(-1) - math.log(3)
    temperature_dual(temperature, soft, bound).backward()
    return temperature.grad


def test_dual_of_the_temperature():
    close(dual_gradient(1.1895947788, 0.2), double(0.0)[0], 1e-9)
    close(kl_from_uniform(log_weights(Q, 1.1895947788)), double(0.2)[0], 1e-9)
    for alpha in (0.01, 0.5, 1.0, 30.0):
        close(dual_gradient(alpha, 0.7), 0.7 - kl_from_uniform(log_weights(Q, alpha)))
        assert dual_gradient(alpha, math.log(3)) >= 0  # a bound that cannot be reached only lowers alpha


@pytest.mark.parametrize(
    ("start", "after"),
    [(1.0, (0.725, 0.320, 0.104)), (0.1, (0.0646, 0.0263, 0.0086)), (0.01, (0.0064, 0.0026, 0.00085))],
)
def test_a_bound_that_never_binds_anneals_the_temperature(start, after):
    alpha = Positive(start).double()
    close(alpha(), double(start)[0], 3e-8)
    optimiser = torch.optim.Adam(alpha.parameters(), lr=5e-4)
    for step in range(1, 7001):
        optimiser.zero_grad()
        temperature_dual(alpha(), torch.zeros((), dtype=torch.float64), 30.0).backward()
        optimiser.step()
        if step in (1000, 3500, 7000):
            expected = after[(1000, 3500, 7000).index(step)]
            assert float(alpha().detach()) == pytest.approx(expected, rel=0.02)


def test_divergence_and_initial_distribution_of_gaussians():
    a = Gaussian(double(0.2, -0.1), double(0.5, 0.3).log())
    b = Gaussian(double(0.0, 0.1), double(0.7, 0.3).log())
    close(b.kl_from(a), double(0.3546128262)[0])
    policy = GaussianPolicy(3, 0, (8, 4), 2, std=(0.3, 0.8, 1.3), generator=torch.Generator().manual_seed(0))
    for layer in (policy.mean, policy.spread):
        torch.nn.init.zeros_(layer.weight)
    start = policy(torch.randn(5, 3))
    torch.testing.assert_close(start.mean, torch.zeros(5, 2))
    torch.testing.assert_close(start.log_std.exp(), torch.full((5, 2), 0.8))
    # Bounded, however large the outputs of the network are.
    torch.nn.init.constant_(policy.spread.bias, 1e3)
    torch.testing.assert_close(policy(torch.randn(5, 3)).log_std.exp(), torch.full((5, 2), 1.3))


def test_a_bandit_against_quadrature():
    """One state, Q(a) = -c (a - m)^2, prior N(mu, s^2): values, weights and the improved prior are exact.

    The nodes of Gauss-Hermite quadrature stand for the samples; their weights enter as alpha log(K w).
    """
    c, m, mu, s, alpha, nodes = 1.3, 0.8, -0.2, 0.9, 0.6, 80
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    action = mu + s * torch.from_numpy(x)
    log_w = torch.from_numpy(w / w.sum()).log()
    value = -c * (action - m) ** 2 + alpha * (log_w + math.log(nodes))
    # q is proportional to pi0 exp(Q / alpha), which is Gaussian.
    precision = 1 / s**2 + 2 * c / alpha
    mean = (mu / s**2 + 2 * c * m / alpha) / precision
    logs = log_weights(value, alpha)
    close((logs.exp() * action).sum(), double(mean)[0])
    close((logs.exp() * (action - mean) ** 2).sum(), double(1 / precision)[0])
    # alpha log E exp(Q / alpha), a Gaussian integral.
    spread = 1 + 2 * c * s**2 / alpha
    exact = -alpha * 0.5 * math.log(spread) - c * (m - mu) ** 2 / spread
    close(consistent_soft_value(value, alpha), double(exact)[0])
    # Eq. 11 has its minimum at the mean and variance of q.
    improved = Gaussian(double(mean).requires_grad_(), double(-0.5 * math.log(precision)).requires_grad_())
    (-(logs.exp() * improved.log_prob(action[:, None])).sum()).backward()
    close(improved.mean.grad, double(0.0))
    close(improved.log_std.grad, double(0.0))


def test_positive_numbers_stay_where_their_gradient_is_not_zero():
    number = Positive(1.0, (2,), lowest=-18.0)
    with torch.no_grad():
        number.raw.fill_(-30.0)
    number.limit()
    number().sum().backward()
    assert (number.raw == -18.0).all()
    assert (number.raw.grad > 0).all()
