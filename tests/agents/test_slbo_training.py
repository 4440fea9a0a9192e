"""SLBO's virtual simulations and training in them."""

import numpy as np
import pytest
import torch
from gymnasium.vector.utils import batch_space

import metarl_envs
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.slbo.dynamics import Dynamics
from metarl_agents.slbo.noise import OrnsteinUhlenbeck
from metarl_agents.slbo.policy_step import fresh_policy
from metarl_agents.slbo.rollouts import RealSimulations, run
from metarl_agents.slbo.training import REPORTED, Settings, VirtualTraining
from metarl_agents.slbo.transitions import TransitionStore
from metarl_agents.slbo.value import ValueNetwork
from metarl_agents.slbo.virtual_env import VirtualVectorEnv

CPU = torch.device("cpu")
CHEETAH, ANT = "MetaHalfCheetah-VelShort-v0", "MetaAnt-VelShort-v0"
SIMULATIONS, STEPS = 3, 12
SETTINGS = Settings(
    model_steps=3, policy_steps=2, model_batch=8, sequence_length=2, weight_decay=1e-5, max_gradient_norm=2.0,
    gamma=0.99, gae_lambda=0.95, entropy_cost=0.005, limited_entropy=False, curvature_every=2, value_epochs=2,
    value_batch=10,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def real(env_id=CHEETAH, seed=0):
    env = metarl_envs.MetaVectorEnv(env_id, SIMULATIONS, autoreset_mode="Disabled", num_threads=1)
    env.reset(seed=seed)
    env.set_tasks([env.family.task("train", 4)] * SIMULATIONS)
    return env


def dynamics_of(env, seed=0):
    size = env.single_observation_space.shape[0]
    model = Dynamics(size, env.single_action_space.shape[0], (16, 16), generator=generator(seed), tiny=False)
    policy = fresh_policy(size, (8, 8), env.single_action_space.shape[0], generator(seed + 1))
    return model, policy


def virtual(env_id=CHEETAH, horizon=STEPS):
    env = real(env_id)
    model, policy = dynamics_of(env)
    rollouts = run(RealSimulations(env, CPU, STEPS), policy, *statistics(model), generator(3))
    obs, _, next_obs, _ = rollouts.in_order()
    model.observe(obs, next_obs)
    made = VirtualVectorEnv(real(env_id, seed=9), metarl_envs.RewardModel(env_id), model, horizon)
    made.set_task(env.family.task("train", 4))
    made.refresh()
    return made, policy


def statistics(model):
    constants = model.constants()
    return constants.mean, constants.scale


class TrueDynamics:
    """Predicts with real simulations."""

    def __init__(self, env):
        self.env = env

    def __call__(self, obs, act):
        return torch.from_numpy(self.env.step(act.numpy())[0].copy())


@pytest.mark.parametrize("env_id", [CHEETAH, ANT])
def test_with_true_dynamics_rewards_and_ends_are_the_real_ones(env_id):
    made, policy = virtual(env_id)
    truth = real(env_id, seed=9)
    # The virtual environment resets its own real simulations, and their steps replace its predictions.
    made.folded = TrueDynamics(made.starts)
    expected = run(RealSimulations(truth, CPU, STEPS), policy, *statistics(made.dynamics), generator(5))
    found = run(made, policy, *statistics(made.dynamics), generator(5))
    assert torch.equal(found.obs, expected.obs)
    assert torch.equal(found.act, expected.act)
    assert torch.equal(found.terminated, expected.terminated)
    assert torch.allclose(found.reward, expected.reward, atol=1e-4)
    assert found.mean_return == pytest.approx(expected.mean_return, abs=1e-3)


def test_it_is_a_vector_environment_behind_the_adapter():
    made, _ = virtual(horizon=3)
    adapter = GymVectorEnvAdapter(made)
    assert made.observation_space == batch_space(made.single_observation_space, SIMULATIONS)
    before, _ = adapter.reset_arrays(seed=4)
    actions = made.action_space.sample()
    for step in range(3):
        after, reward, terminated, truncated, _ = adapter.step_arrays(actions)
        expected = made.dynamics.predict(torch.from_numpy(before), torch.from_numpy(actions)).numpy()
        np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)
        assert np.array_equal(reward, made.rewards(before, actions, after))
        assert not terminated.any()
        assert (truncated == (step == 2)).all()
        before = after.copy()
    with pytest.raises(ValueError, match="simulation 0 has ended; reset it"):
        made.step(actions)
    chosen = np.array([True, False, True])
    restarted, _ = made.reset(options={"reset_mask": chosen})
    assert np.array_equal(restarted[1], before[1])
    assert not np.array_equal(restarted[0], before[0])


def test_an_episode_that_ends_is_followed_by_another():
    made, policy = virtual(ANT)

    def falls(obs, act):
        del act
        fallen = obs.clone()
        fallen[1, 2] = 5.0  # the height of the second ant
        return fallen

    made.folded = falls
    found = run(made, policy, *statistics(made.dynamics), generator(5))
    assert found.terminated[:, 1].all()
    assert not found.terminated[:, 0].any()
    assert found.ended[:, 1].all()
    assert found.ended[:, 0].sum() == 1
    # Starting states, not states of fallen ants.
    assert (found.obs[:, 1, 2] < 2.0).all()


def test_predictions_that_are_not_finite_are_refused():
    made, policy = virtual()
    made.folded = lambda obs, act: obs * float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        run(made, policy, *statistics(made.dynamics), generator(5))


def test_actions_are_those_of_the_policy_with_noise():
    env = real()
    model, policy = dynamics_of(env)
    model.observe(torch.randn(50, model.states.mean.numel()), torch.randn(50, model.states.mean.numel()))
    mean, scale = statistics(model)
    found = run(RealSimulations(env, CPU, STEPS), policy, mean, scale, generator(3))
    exploring = run(
        RealSimulations(real(), CPU, STEPS), policy, mean, scale, generator(3),
        OrnsteinUhlenbeck(SIMULATIONS, 6, generator(4)),
    )  # fmt: skip
    noise = torch.randn(found.act.shape, generator=generator(3))
    expected = policy((found.obs - mean) / scale).with_noise(noise)
    assert torch.allclose(found.act, expected, atol=1e-4)
    first = 0.3 * torch.randn(SIMULATIONS, 6, generator=generator(4))
    assert torch.allclose(exploring.act[0] - found.act[0], first, atol=1e-5)
    obs, act, next_obs, ended = found.in_order()
    assert torch.equal(obs[:STEPS], found.obs[:, 0])
    assert torch.equal(next_obs[STEPS - 1], found.next_obs[-1, 0])
    assert ended.nonzero().flatten().tolist() == [STEPS * k - 1 for k in range(1, SIMULATIONS + 1)]
    assert act.shape == (STEPS * SIMULATIONS, 6)


def training(seed=0):
    made, policy = virtual()
    store = TransitionStore(500, made.dynamics.states.mean.numel(), 6, CPU)
    rollouts = run(
        RealSimulations(real(seed=2), CPU, STEPS), policy, *statistics(made.dynamics), generator(7)
    )
    store.append(*rollouts.in_order())
    value = ValueNetwork(made.dynamics.states.mean.numel(), (8, 8), generator=generator(8))
    model_parameters = [*made.dynamics.weights, *made.dynamics.biases]
    return (
        VirtualTraining(
            SETTINGS, made.dynamics, value, store,
            model_adam=torch.optim.Adam(model_parameters, 1e-3),
            value_adam=torch.optim.Adam([value.flat], 1e-3),
            generator=generator(seed), noise=generator(seed + 1),
        ),
        made,
        policy,
    )  # fmt: skip


def test_an_inner_iteration_changes_everything_but_the_data_and_can_be_repeated():
    results = []
    for _ in range(2):
        trained, made, policy = training()
        before = [p.detach().clone() for p in (*made.dynamics.parameters(), *policy.parameters())]
        stored, mean = trained.store.obs.clone(), made.dynamics.states.mean.clone()
        found = trained.inner_iteration(policy, made)
        assert set(found) == set(REPORTED)
        assert all(torch.isfinite(value) for value in found.values())
        after = (*made.dynamics.parameters(), *policy.parameters())
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert torch.equal(trained.store.obs, stored)
        assert torch.equal(made.dynamics.states.mean, mean)
        assert found["policy_kl"] <= 0.015
        results.append((found, [p.detach().clone() for p in after]))
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    assert results[0][0] == results[1][0]
