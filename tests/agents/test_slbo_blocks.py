"""Known answers of SLBO's blocks: normaliser, dynamics, noise, policy step, advantages, value network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metarl_agents.networks.functional import Gaussian
from metarl_agents.slbo.dynamics import Dynamics, clip_gradients
from metarl_agents.slbo.noise import OrnsteinUhlenbeck
from metarl_agents.slbo.normaliser import Normaliser
from metarl_agents.slbo.policy_step import (
    SLBO_REGION,
    GaussianPass,
    fresh_policy,
    generalised_advantages,
    limited_entropy_of,
    policy_step,
)
from metarl_agents.slbo.transitions import Sequences, TransitionStore
from metarl_agents.slbo.value import ValueNetwork
from metarl_agents.trials.trust_region import TrustRegion, flat

OBS, ACT = 4, 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def double(shape, seed):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def dynamics(seed=0, *, tiny=False, hidden=(8, 7), data=200):
    model = Dynamics(OBS, ACT, hidden, generator=generator(seed), tiny=tiny).double()
    obs = double((data, OBS), seed + 1)
    model.observe(obs, obs + 0.3 * double((data, OBS), seed + 2) + 0.5)
    return model


def sequences(seed, steps=2, batch=5, ended=None):
    obs, next_obs = double((steps, batch, OBS), seed), double((steps, batch, OBS), seed + 1)
    act = double((steps, batch, ACT), seed + 2)
    flags = torch.zeros(steps, batch, dtype=torch.bool) if ended is None else ended
    return Sequences(obs, act, next_obs, flags)


# -- normaliser -----------------------------------------------------------------------------------


def test_the_normaliser_merges_batches():
    normaliser = Normaliser(1)
    normaliser.update(torch.tensor([[1.0], [2.0], [3.0]]))
    normaliser.update(torch.tensor([[10.0], [20.0]]))
    assert normaliser.mean.item() == pytest.approx(7.2, abs=1e-12)
    assert normaliser.std.item() == pytest.approx(7.1386273190, abs=1e-9)
    assert normaliser.count == 5


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 99))
def test_the_division_into_batches_does_not_matter(sizes, seed):
    values = 100.0 + double((sum(sizes) or 1, 3), seed)
    whole, parts = Normaliser(3), Normaliser(3)
    whole.update(values)
    for part in values.split(sizes if sum(sizes) else [1]):
        parts.update(part)
    assert torch.allclose(parts.mean, values.mean(0), atol=1e-10)
    assert torch.allclose(parts.std, whole.std, atol=1e-10)


def test_a_constant_dimension_is_not_scaled():
    normaliser = Normaliser(2)
    assert normaliser.std.tolist() == [1.0, 1.0]
    normaliser.update(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert normaliser.scale.tolist() == [1.0, 1.0]
    assert normaliser.varies.tolist() == [True, False]


# -- dynamics -------------------------------------------------------------------------------------


def test_the_error_is_a_root_mean_square():
    # A network whose output is zero: normalised changes (-.5, .5) and (-1, 0) are the errors.
    model = Dynamics(2, 1, (3,), generator=generator(), tiny=True).double()
    for parameter in model.parameters():
        parameter.data.zero_()
    constants = model.constants()
    changes = torch.tensor([[[-0.5, 0.5], [-1.0, 0.0]]], dtype=torch.float64)
    obs = torch.zeros(1, 2, 2, dtype=torch.float64)
    data = Sequences(obs, torch.zeros(1, 2, 1, dtype=torch.float64), obs + changes, torch.ones(1, 2).bool())
    assert model.loss_and_gradient(data, constants).item() == pytest.approx(0.6035533906, abs=1e-9)


def test_the_first_prediction_is_the_mean_change():
    model = dynamics(tiny=True)
    obs, act = double((6, OBS), 8), double((6, ACT), 9)
    error = (model.predict(obs, act) - obs - model.changes.mean) / model.changes.std
    assert error.abs().max() < 1e-4


def reference_loss(model, data, decay):
    """The same loss, as one would write it for autograd."""
    c = model.constants()
    current, total = data.obs[0], 0.0
    for step in range(len(data.obs)):
        hidden = torch.cat(((current - c.mean) / c.scale, data.act[step].clamp(-1, 1)), 1)
        for number, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
            hidden = hidden @ weight.T + bias
            hidden = hidden.relu() if number < len(model.weights) - 1 else hidden
        predicted = (current + c.change + c.spread * hidden).clamp(
            c.mean - 100 * c.scale, c.mean + 100 * c.scale
        )
        recorded = data.next_obs[step] - data.obs[step]
        error = ((c.change + c.spread * hidden) - recorded) / c.target_scale
        total = total + (error.square().mean(1) + 1e-12).sqrt().mean() / len(data.obs)
        if step + 1 < len(data.obs):
            mask = (~data.ended[step]).double()[:, None]
            current = data.obs[step + 1] + mask * (predicted - data.obs[step + 1])
    penalty = sum(p.square().sum() for p in (*model.weights, *model.biases))
    return total, total + 0.5 * decay * penalty


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_gradient_of_the_dynamics_is_that_of_autograd(steps):
    model = dynamics(3)
    data = sequences(5, steps=steps, ended=torch.rand(steps, 5, generator=generator(1)) < 0.4)
    value, with_penalty = reference_loss(model, data, 0.01)
    parameters = (*model.weights, *model.biases)
    expected = torch.autograd.grad(with_penalty, parameters)
    found = model.loss_and_gradient(data, model.constants(), 0.01)
    assert found.item() == pytest.approx(value.item(), abs=1e-12)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-12)


def test_a_sequence_restarts_from_the_recorded_state_after_an_end():
    model, data = dynamics(3), sequences(5, ended=torch.ones(2, 5).bool())
    both = model.loss_and_gradient(data, model.constants())
    alone = [model.loss_and_gradient(Sequences(*(x[[k]] for x in data)), model.constants()) for k in (0, 1)]
    assert both.item() == pytest.approx(sum(x.item() for x in alone) / 2, abs=1e-12)
    going_on = model.loss_and_gradient(data._replace(ended=~data.ended), model.constants())
    assert abs(going_on.item() - both.item()) > 1e-3


def test_a_dimension_that_never_changes_is_predicted_exactly():
    model = Dynamics(2, 1, (5,), generator=generator(), tiny=False).double()
    obs = torch.stack((double(50, 1), torch.full((50,), 0.25, dtype=torch.float64)), 1)
    model.observe(obs, obs + torch.stack((double(50, 2), torch.zeros(50, dtype=torch.float64)), 1))
    predicted = obs
    for _ in range(50):
        predicted = model.folded()(predicted, double((50, 1), 3))
    assert (predicted[:, 1] == 0.25).all()


def test_folded_dynamics_predict_the_same():
    model = dynamics(4)
    obs, act = double((9, OBS), 1), 2 * double((9, ACT), 2)
    assert torch.allclose(model.folded()(obs, act), model.predict(obs, act), atol=1e-12)


def test_predictions_stay_within_a_hundred_standard_deviations():
    model = dynamics(4)
    far = 1e4 * torch.ones(1, OBS, dtype=torch.float64)
    bound = model.states.mean + 100 * model.states.std
    assert torch.allclose(model.predict(far, torch.zeros(1, ACT).double()), bound[None])
    assert torch.allclose(model.folded()(far, torch.zeros(1, ACT).double()), bound[None])


def test_a_linear_system_is_learned():
    torch_generator = generator(7)
    matrix, control = (
        0.1 * torch.randn(OBS, OBS, generator=torch_generator),
        torch.randn(OBS, ACT, generator=torch_generator),
    )
    obs = torch.randn(2000, OBS, generator=torch_generator)
    act = torch.rand(2000, ACT, generator=torch_generator) * 2 - 1
    next_obs = obs + obs @ matrix.T + 0.2 * act @ control.T + 0.1
    store = TransitionStore(2000, OBS, ACT, torch.device("cpu"))
    # Rows that do not continue each other.
    store.append(obs, act, next_obs, torch.ones(2000, dtype=torch.bool))
    model = Dynamics(OBS, ACT, (64, 64), generator=torch_generator, tiny=True)
    model.observe(obs, next_obs)
    parameters = [*model.weights, *model.biases]
    adam = torch.optim.Adam(parameters, lr=1e-3)
    constants, losses = model.constants(), []
    for _ in range(2000):
        losses.append(model.loss_and_gradient(store.draw(128, 2, torch_generator), constants))
        clip_gradients(parameters, 2.0)
        adam.step()
    assert losses[0] > 0.5
    assert float(sum(losses[-50:]) / 50) < 0.02


def test_gradients_are_clipped_by_their_common_norm():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    clip_gradients(parameters, 2.0)
    assert torch.allclose(flat([p.grad for p in parameters]), torch.tensor([1.2, 0.0, 1.6]))
    clip_gradients(parameters, 5.0)
    assert torch.allclose(flat([p.grad for p in parameters]), torch.tensor([1.2, 0.0, 1.6]))


# -- data -----------------------------------------------------------------------------------------


def rows(first, count):
    values = torch.arange(first, first + count, dtype=torch.float32)[:, None]
    return values, values, values + 1


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 9))
def test_the_store_keeps_the_newest_rows_and_never_goes_on_beyond_them(sizes, seed):
    store, place = TransitionStore(7, 1, 1, torch.device("cpu")), 0
    for size in sizes:
        store.append(*rows(place, size), torch.zeros(size, dtype=torch.bool))
        place += size
    assert len(store) == min(7, place)
    drawn = store.draw(50, 2, generator(seed))
    assert drawn.obs.min() >= place - len(store)
    continuing = ~drawn.ended[0]
    assert (drawn.obs[1] == drawn.obs[0] + 1)[continuing].all()
    assert drawn.ended[drawn.obs[..., 0] == place - 1].all()
    other = TransitionStore(7, 1, 1, torch.device("cpu"))
    other.load_state_arrays(store.state_arrays())
    assert torch.equal(other.draw(9, 2, generator(1)).obs, store.draw(9, 2, generator(1)).obs)


def test_too_many_rows_are_refused():
    with pytest.raises(ValueError, match="8 transitions do not fit into a ring of 7"):
        TransitionStore(7, 1, 1, torch.device("cpu")).append(*rows(0, 8), torch.zeros(8, dtype=torch.bool))


def test_noise_is_correlated_and_has_its_stationary_deviation():
    noise = OrnsteinUhlenbeck(2000, 2, generator(1))
    for _ in range(60):
        noise()
    before = noise.value
    assert noise.value.std().item() == pytest.approx(0.5694947975, rel=0.02)
    after = noise()
    correlation = torch.corrcoef(torch.stack((before.flatten(), after.flatten())))[0, 1].item()
    assert correlation == pytest.approx(0.85, abs=0.02)


# -- policy step ----------------------------------------------------------------------------------


def policy(seed=0):
    found = fresh_policy(OBS, (6, 5), ACT, generator(seed)).double()
    found.log_std.data = torch.tensor([-0.3, 0.2], dtype=torch.float64)
    return found


def test_a_fresh_policy_has_rows_of_norm_one():
    found = fresh_policy(OBS, (6, 5), ACT, generator())
    assert torch.allclose(found.weight_0.norm(dim=1), torch.ones(6))
    assert torch.allclose(found.weight_2.norm(dim=1), torch.full((ACT,), 0.01))
    assert found.log_std.abs().max() == 0


def test_products_with_the_curvature_are_those_of_autograd():
    actor, inputs = policy(), double((20, OBS), 1)
    parameters = GaussianPass(actor, inputs).parameters
    old = actor(inputs).detach()
    kl = actor(inputs).kl_from(old).mean()
    gradient = flat(torch.autograd.grad(kl, parameters, create_graph=True))
    vector = double(len(gradient), 2)
    expected = flat(torch.autograd.grad(gradient @ vector, parameters))
    with torch.no_grad():
        found = GaussianPass(actor, inputs).curvature()(vector)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("limited", [False, True])
def test_the_first_gradient_of_a_policy_step_is_that_of_autograd(limited, monkeypatch):
    actor, inputs = policy(), double((20, OBS), 1)
    act = actor(inputs).detach().with_noise(double((20, ACT), 3))
    advantage = double(20, 4)
    seen = {}

    def keep(parameters, *, gradient, curvature, evaluate, region):
        seen["gradient"], seen["parameters"] = gradient(), parameters

    monkeypatch.setattr("metarl_agents.slbo.policy_step.trust_region_step", keep)
    policy_step(actor, inputs, act, advantage, entropy_cost=0.3, limited_entropy=limited)
    value, found = seen["gradient"]
    standard = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    new, old = actor(inputs), actor(inputs).detach()
    ratio = (new.log_prob(act) - old.log_prob(act)).exp()
    entropy = limited_entropy_of(new)[0].mean() if limited else new.entropy()
    loss = -(ratio * standard).mean() - 0.3 * entropy
    assert value == pytest.approx(loss.item(), abs=1e-12)
    assert torch.allclose(found, flat(torch.autograd.grad(loss, seen["parameters"])), atol=1e-12)


def test_the_entropy_of_the_released_code():
    for sigma, expected in ((0.3, -0.2850), (1.0, 1.0685), (2.0, 1.5294)):
        log_std = torch.tensor([math.log(sigma)], dtype=torch.float64)
        value, _, _ = limited_entropy_of(Gaussian(torch.zeros(1, 1).double(), log_std))
        assert value.item() == pytest.approx(expected, abs=1e-4)
    mean = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    log_std = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    value, of_mean, of_log_std = limited_entropy_of(Gaussian(mean, log_std))
    expected = torch.autograd.grad(value.sum(), (mean, log_std))
    assert torch.allclose(of_mean, expected[0])
    assert torch.allclose(of_log_std[0], expected[1])


@pytest.mark.parametrize("seed", range(5))
def test_a_step_stays_within_its_region_and_improves(seed):
    actor, inputs = policy(seed), double((200, OBS), seed)
    act = actor(inputs).detach().with_noise(double((200, ACT), seed + 1))
    result = policy_step(actor, inputs, act, -act.square().sum(1), entropy_cost=0.0, limited_entropy=False)
    assert result.accepted
    assert result.kl <= 0.015
    assert result.loss <= result.loss_before


def test_a_step_by_hand():
    # One linear layer, mean = w x, log sigma fixed by a zero gradient: the direction is the gradient over the
    # damped curvature, and the length makes 1/2 d' F d = radius.
    actor = fresh_policy(1, (), 1, generator()).double()
    inputs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    before = flat(GaussianPass(actor, inputs).parameters).clone()
    act = actor(inputs).detach().mean + torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0], dtype=torch.float64)
    region = TrustRegion(radius=1e-4, damping=0.1, slack=1.5, strictly_better=False)
    result = policy_step(
        actor, inputs, act, advantage, entropy_cost=0.0, limited_entropy=False, region=region
    )
    assert result.accepted
    # The gradient is 0 for the weight, -1 for the bias and 0 for log sigma.
    moved = flat(GaussianPass(actor, inputs).parameters) - before
    expected = math.sqrt(2 * 1e-4 / 1.1)
    assert moved.tolist() == pytest.approx([0.0, expected, 0.0], abs=1e-9)


def test_a_loss_that_stays_equal_is_accepted():
    actor, inputs = policy(), double((10, OBS), 1)
    act = actor(inputs).detach().mean
    result = policy_step(actor, inputs, act, torch.ones(10).double(), entropy_cost=0.0, limited_entropy=False)
    assert result.accepted
    assert SLBO_REGION.slack == 1.5


def test_generalised_advantages_bootstrap_after_a_time_out():
    def column(*values):
        return torch.tensor(values, dtype=torch.float64)[:, None]

    found = generalised_advantages(
        column(1.0, 1.0, 1.0), column(0.5, 0.6, 0.7), column(0.6, 0.65, 0.8),
        torch.zeros(3, 1).bool(), torch.tensor([[False], [True], [True]]), gamma=0.99, gae_lambda=0.95,
    )  # fmt: skip
    assert found[:, 0].tolist() == pytest.approx([2.0754117500, 1.0435, 1.092], abs=1e-9)


# -- value network --------------------------------------------------------------------------------


def test_a_fit_takes_the_steps_that_autograd_would():
    inputs, targets = double((10, 3), 1), double(10, 2)
    network = ValueNetwork(3, (5, 4), generator=generator()).double()
    layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    weights, biases = network._views(network.flat.detach())
    for layer, weight, bias in zip(layers[::2], weights, biases, strict=True):
        layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    adam, reference = (torch.optim.Adam(p, lr=0.01) for p in ([network.flat], layers.parameters()))
    drawn = generator(5)
    for _ in range(2):
        order = torch.randperm(10, generator=drawn)
        for batch in order.split(4):
            reference.zero_grad()
            (layers(inputs[batch])[:, 0] - targets[batch]).square().mean().backward()
            reference.step()
    network.fit(adam, inputs, targets, epochs=2, batch_size=4, generator=generator(5))
    assert torch.allclose(network(inputs), layers(inputs)[:, 0], atol=1e-9)


def test_a_fit_lowers_the_error():
    network = ValueNetwork(3, (16, 16), generator=generator())
    inputs = torch.randn(500, 3, generator=generator(1))
    targets = inputs[:, 0] - inputs[:, 1].square()
    adam = torch.optim.Adam([network.flat], lr=1e-2)
    options = {"epochs": 20, "batch_size": 50, "generator": generator(2)}
    first = network.fit(adam, inputs, targets, **options)
    assert network.fit(adam, inputs, targets, **options) < 0.3 * first
    assert np.isfinite(first.item())
