"""Networks, distributions, encoder, targets, running means, seeding."""

import copy
import math

import numpy as np
import pytest
import torch
from builders import build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform

from metarl_agents.common.algorithm import RunningMeans
from metarl_agents.common.seeding import (
    numpy_state,
    numpy_stream,
    restore_numpy_state,
    stream_seed,
    torch_stream,
)
from metarl_agents.networks.actors import TanhGaussianActor
from metarl_agents.networks.distributions import log_tanh_derivative, tanh_gaussian_rsample
from metarl_agents.networks.encoders import (
    ProductOfGaussiansEncoder,
    factor_sums,
    kl_to_standard_normal,
    product_of_gaussians,
    transition_features,
)
from metarl_agents.networks.perceptrons import TwinCritic, mlp
from metarl_agents.networks.targets import PolyakTarget
from metarl_agents.registry import find_agent


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_product_of_gaussians_is_the_normalised_product_of_the_densities(seed, factors, latent):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(2, factors, latent, generator=generator, dtype=torch.float64)
    variance = torch.rand(2, factors, latent, generator=generator, dtype=torch.float64) + 0.05
    product_mean, product_variance = product_of_gaussians(mean, variance)
    # The log of the product is a quadratic: its curvature and its maximum say all.
    points = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)[:, None, None, None]
    log_density = Normal(mean, variance.sqrt()).log_prob(points).sum(2)
    curvature = log_density[0] - 2 * log_density[1] + log_density[2]
    slope = (log_density[2] - log_density[0]) / 2
    torch.testing.assert_close(product_variance, -1 / curvature, rtol=1e-9, atol=0)
    torch.testing.assert_close(product_mean, -slope / curvature, rtol=1e-8, atol=1e-10)


def test_product_of_gaussians_clamps_variances_not_deviations():
    mean = torch.zeros(1, 1, 1)
    _, variance = product_of_gaussians(mean, torch.zeros(1, 1, 1))
    assert variance.item() == pytest.approx(1e-7)


def test_factor_sums_add_up_over_parts_of_a_context():
    mean, variance = torch.randn(3, 10, 4), torch.rand(3, 10, 4) + 0.1
    whole = factor_sums(mean, variance)
    first, second = factor_sums(mean[:, :3], variance[:, :3]), factor_sums(mean[:, 3:], variance[:, 3:])
    for total, a, b in zip(whole, first, second, strict=True):
        torch.testing.assert_close(total, a + b)


def test_kl_is_summed_over_tasks_and_dimensions():
    mean, variance = torch.randn(4, 3), torch.rand(4, 3) + 0.1
    reference = kl_divergence(Normal(mean, variance.sqrt()), Normal(torch.zeros(()), 1.0)).sum()
    torch.testing.assert_close(kl_to_standard_normal(mean, variance), reference)


def test_tanh_gaussian_log_prob_is_that_of_torch_distributions():
    mean = torch.randn(50, 3, dtype=torch.float64)
    log_std = torch.randn(50, 3, dtype=torch.float64).clamp(-3, 1)
    noise = torch.randn(50, 3, dtype=torch.float64)
    action, log_prob = tanh_gaussian_rsample(mean, log_std, noise)
    base = Normal(mean, log_std.exp())
    reference = Independent(TransformedDistribution(base, [TanhTransform(cache_size=1)]), 1)
    inside = action.abs().amax(-1) < 1 - 1e-9  # atanh of the reference loses digits beyond
    torch.testing.assert_close(log_prob[inside], reference.log_prob(action)[inside], rtol=1e-6, atol=1e-6)


def test_log_tanh_derivative_is_exact_far_out_in_float32():
    u = torch.tensor([-30.0, -9.0, 0.0, 9.0, 30.0])
    exact = 2 * (math.log(2) - u.double().abs() - torch.log1p(torch.exp(-2 * u.double().abs())))
    torch.testing.assert_close(log_tanh_derivative(u).double(), exact, rtol=1e-6, atol=1e-6)


def test_mlp_initialisation_starts_near_zero():
    net = mlp(7, (50, 60), 4, generator=torch.Generator().manual_seed(0), last_bound=3e-3)
    first, second, last = net[0], net[2], net[4]
    assert first.weight.abs().max() <= 7**-0.5
    assert second.weight.abs().max() <= 50**-0.5
    assert second.weight.abs().max() > 0.95 * 50**-0.5
    assert (first.bias == 0.1).all()
    assert last.weight.abs().max() <= 3e-3
    assert (last.bias == 0).all()


def test_released_initial_weights_are_those_of_pearls_released_code():
    """Its fanin_init takes the first axis of a weight, the outputs; its last biases are drawn."""
    generator = torch.Generator().manual_seed(0)
    net = mlp(7, (50, 60), 400, generator=generator, last_bound=3e-3, released=True)
    first, second, last = net[0], net[2], net[4]
    for layer, outputs in ((first, 50), (second, 60)):
        assert 0.9 * outputs**-0.5 < layer.weight.abs().max() <= outputs**-0.5
        assert (layer.bias == 0.1).all()
    for values in (last.weight, last.bias):
        assert 0.95 * 3e-3 < values.abs().max() <= 3e-3


@pytest.mark.parametrize(("agent", "networks"), [("pearl", 6), ("crl", 6), ("oracle", 5)])
def test_agents_start_as_their_configuration_says(agent, networks):
    """Actor, encoder, two critics, value network and its target copy: bounds of layers of width 50."""
    algorithm_class = find_agent(agent).load()
    widths = {"hidden": (50,)} | ({} if agent == "oracle" else {"encoder_hidden": (50,)})
    for initial_weights in ("released", "fan_in"):
        config = algorithm_class.config_class(initial_weights=initial_weights, **widths)
        modules = build(algorithm_class, config).modules()
        hidden = [m for m in modules if isinstance(m, torch.nn.Linear) and m.out_features == 50]
        assert len(hidden) == networks
        for layer in hidden:
            assert layer.in_features < 20
            bounds = {"released": 50**-0.5, "fan_in": layer.in_features**-0.5}
            assert 0.9 * bounds[initial_weights] < layer.weight.abs().max() <= bounds[initial_weights]


def test_initialisation_reads_and_writes_no_global_generator():
    before = torch.get_rng_state()
    make = lambda: TwinCritic(4, (8,), generator=torch.Generator().manual_seed(3))  # noqa: E731
    a, b = make(), make()
    assert torch.equal(before, torch.get_rng_state())
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(a.first[0].weight, a.second[0].weight)


def test_actor_log_std_is_clipped_and_mean_action_is_deterministic():
    actor = TanhGaussianActor(3, (16,), 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actor.network[-1].weight.mul_(1e6)
    _, log_std = actor(torch.randn(100, 3))
    assert log_std.min() >= -20
    assert log_std.max() <= 2
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(5, 3)
    assert torch.equal(actor.act(x, noise, deterministic=True), actor.act(x, noise, deterministic=True))


def test_encoder_ignores_the_order_of_transitions():
    encoder = ProductOfGaussiansEncoder(4, (16,), 3, generator=torch.Generator().manual_seed(0))
    context = torch.randn(2, 9, 4)
    a = product_of_gaussians(*encoder(context))
    b = product_of_gaussians(*encoder(context[:, torch.randperm(9)]))
    torch.testing.assert_close(a, b)


def test_transition_features_are_float32_in_the_documented_order():
    features = transition_features(
        np.ones((2, 3)), 2 * np.ones((2, 1)), np.array([3.0, 4.0]), 5 * np.ones((2, 3))
    )
    assert features.dtype == np.float32
    assert features.tolist() == [[1, 1, 1, 2, 3, 5, 5, 5], [1, 1, 1, 2, 4, 5, 5, 5]]


def test_polyak_target_follows_and_keeps_the_source_out_of_its_state():
    source = mlp(2, (3,), 1, generator=torch.Generator().manual_seed(0), last_bound=1.0)
    target = PolyakTarget(source, 0.25)
    old = copy.deepcopy(target.network.state_dict())
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    target.follow()
    for name, value in target.network.state_dict().items():
        torch.testing.assert_close(value, 0.75 * old[name] + 0.25 * source.state_dict()[name])
    assert all(name.startswith("network.") for name in target.state_dict())
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_running_means_report_every_nth_step():
    means = RunningMeans(("a", "b"), 2, torch.device("cpu"))
    one = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(4.0)}
    assert means.add(one) is None
    assert means.add({"a": torch.tensor(2.0), "b": torch.tensor(6.0)}) == {"a": 1.5, "b": 5.0}
    assert means.add(one) is None
    # What no report has said yet can be taken at any time, once.
    assert means.take() == {"a": 1.0, "b": 4.0}
    assert means.take() == {}
    assert means.add(one) is None


def test_streams_are_independent_of_each_other_and_restorable():
    assert stream_seed(1, "a") != stream_seed(1, "b")
    assert stream_seed(1, "a") != stream_seed(2, "a")
    assert torch_stream(1, "a").initial_seed() == stream_seed(1, "a")
    generator = numpy_stream(0, "x")
    generator.random(3)
    state = numpy_state(generator)
    expected = generator.random(5)
    other = numpy_stream(9, "y")
    restore_numpy_state(other, state)
    assert (other.random(5) == expected).all()
    with pytest.raises(ValueError, match="non-negative"):
        stream_seed(-1, "a")
