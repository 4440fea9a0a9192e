"""MQL's adaptation: what it starts from, what it leaves, and what each of its switches does."""

import dataclasses

import numpy as np
import pytest
import torch
from builders import ACT, OBS, assert_equal_states, box, build, everything, filled_buffer
from test_run import tiny
from tianshou.utils.torch_utils import policy_within_training_step

from metarl_agents import evaluate_run
from metarl_agents.algorithms.mql import MQL, MQLAgent, MQLConfig
from metarl_agents.algorithms.td3_context import TD3Context, TD3ContextConfig
from metarl_agents.common.config import ConfigError
from metarl_agents.replay.propensity import Propensity
from metarl_envs.evaluation import Transition, Trial

SMALL = {
    "hidden": (8, 8), "updates_per_iteration": 1, "learning_rate": 1e-3, "history_length": 4,
    "context_size": 3, "new_updates": 3, "replay_updates": 5, "replay_batch": 16, "weight_clip": 1.0,
    "proximal_coefficient": 0.2, "snapshot_steps": 8,
}  # fmt: skip
TASKS = 3


def make(**changes):
    """An agent that was trained a little, and its buffer."""
    agent, buffer = build(MQL, MQLConfig(**(SMALL | changes))), filled_buffer()
    with policy_within_training_step(agent.policy):
        for _ in range(4):
            agent.update(buffer=buffer, sample_size=16)
    return agent, buffer


def trial(**changes):
    values = {
        "num_tasks": TASKS, "observation_space": box(OBS), "action_space": box(ACT), "horizon": 6,
        "adaptation_episodes": 1, "scored_episodes": 1, "episodes_per_update": 1,
        "deterministic": True, "seed": 5,
    }  # fmt: skip
    return Trial(**(values | changes))


def run_episode(agent, seed, lengths=(6, 6, 4), tasks=TASKS):
    """One episode of random observations; returns the actions."""
    g = np.random.default_rng(seed)
    actions = []
    for step in range(max(lengths)):
        observation = g.normal(size=(TASKS, OBS)).astype(np.float32)[:tasks]
        following = g.normal(size=(TASKS, OBS)).astype(np.float32)[:tasks]
        reward = g.normal(size=TASKS)[:tasks]
        active = (step < np.array(lengths))[:tasks]
        actions.append(agent.act(observation))
        agent.observe(
            Transition(
                observation=observation, action=actions[-1], reward=np.where(active, reward, 0.0),
                next_observation=following, terminated=step + 1 == np.array(lengths)[:tasks],
                truncated=np.zeros(tasks, bool), active=active, info={},
            )
        )  # fmt: skip
    agent.end_episode()
    return np.array(actions)


def adapted_episode(algorithm, buffer, **changes):
    agent = algorithm.trial_agent(buffer)
    agent.begin_trial(trial(**changes))
    first = run_episode(agent, 1)
    return first, run_episode(agent, 2), agent


def test_meta_training_is_td3_contexts_to_the_bit():
    agent, _ = make()
    names = {field.name for field in dataclasses.fields(TD3ContextConfig)}
    shared = {k: v for k, v in SMALL.items() if k in names}
    other, buffer = build(TD3Context, TD3ContextConfig(**shared)), filled_buffer()
    with policy_within_training_step(other.policy):
        for _ in range(4):
            other.update(buffer=buffer, sample_size=16)
    assert_equal_states(everything(agent), everything(other))


def test_adaptation_changes_the_actions_and_rolls_everything_back():
    algorithm, buffer = make()
    before, generator = everything(algorithm), algorithm.generator.get_state()
    counters, of_buffer = (algorithm.updates, algorithm.policy_value), buffer.generator_state()
    first, second, agent = adapted_episode(algorithm, buffer)
    assert_equal_states(everything(algorithm), before)
    assert buffer.generator_state() == of_buffer
    assert torch.equal(algorithm.generator.get_state(), generator)
    assert (algorithm.updates, algorithm.policy_value) == counters
    unadapted = algorithm.trial_agent(buffer)
    unadapted.algorithm.config = dataclasses.replace(algorithm.config, adaptation="none")
    unadapted.begin_trial(trial())
    assert np.array_equal(run_episode(unadapted, 1), first)
    assert np.abs(run_episode(unadapted, 2) - second).max() > 1e-4
    assert len(agent.diagnostics()) == TASKS
    assert agent.diagnostics()[2]["new_steps"] == 4  # the steps of an ended episode do not count
    # A new trial starts from the meta-trained actor again.
    unadapted.algorithm.config = dataclasses.replace(algorithm.config, adaptation="full")
    agent.begin_trial(trial())
    assert np.array_equal(run_episode(agent, 1), first)
    np.testing.assert_array_equal(run_episode(agent, 2), second)


def test_rolling_back_survives_a_failure():
    algorithm, buffer = make()
    before = everything(algorithm)

    def fails():
        with algorithm.rolled_back():
            algorithm.adapt(filled_buffer(tasks=1, seed=9), buffer, 1)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert_equal_states(everything(algorithm), before)


def test_a_task_adapts_on_its_own_data_whatever_the_others_are():
    algorithm, buffer = make()
    _, together, _ = adapted_episode(algorithm, buffer)
    alone = algorithm.trial_agent(buffer)
    alone.begin_trial(trial(num_tasks=1))
    run_episode(alone, 1, tasks=1)
    np.testing.assert_allclose(run_episode(alone, 2, tasks=1)[:, 0], together[:, 0], rtol=1e-4, atol=1e-5)


def record(**changes):
    algorithm, buffer = make(**changes)
    calls, started = [], []
    original = algorithm.step

    def step(data, critic_optim, actor_optim, weights_B=None, critic_penalty=None, actor_penalty=None):
        started.append(algorithm.updates)
        calls.append((len(data.transitions.reward), weights_B, critic_penalty, actor_penalty))
        return original(data, critic_optim, actor_optim, weights_B, critic_penalty, actor_penalty)

    algorithm.step = step
    new = filled_buffer(tasks=1, seed=9, shift=0.5)
    with algorithm.rolled_back():
        found = algorithm.adapt(new, buffer, 2)
    # The delay of the actor starts anew in each phase.
    new_steps = sum(weights is None for _, weights, *_ in calls)
    assert started == [*range(new_steps), *range(len(calls) - new_steps)]
    return calls, found, algorithm


@pytest.mark.long
def test_the_two_phases_are_as_long_as_configured_and_switches_change_what_they_name():
    calls, full, _ = record()
    assert [size for size, *_ in calls] == [10] * 6 + [16] * 10
    assert all(weights is None for _, weights, *_ in calls[:6])
    assert all(weights is not None for _, weights, *_ in calls[6:])
    assert all(penalty is not None for *_, penalty, _ in calls)
    assert 0.0 < full.proximal < 1.0
    assert full.distance > 0.0
    # beta = 0: new data only.
    calls, new, _ = record(adaptation="new")
    assert [size for size, *_ in calls] == [10] * 6
    assert (new.weight, new.weight_used) == (0.0, 0.0)
    assert 0.0 < new.ess < 1.0
    # The released code: lambda constant, and none of it in the updates on new data.
    calls, constant, _ = record(proximal="constant", proximal_on_new=False)
    assert all(penalty is None for *_, penalty, _ in calls[:6])
    assert all(penalty is not None for *_, penalty, _ in calls[6:])
    assert constant.proximal == pytest.approx(0.2)
    calls, _, _ = record(proximal="constant", proximal_coefficient=0.0)
    assert all(penalty is None for *_, penalty, _ in calls)
    # A strong proximal term keeps the parameters nearer.
    _, strong, _ = record(proximal="constant", proximal_coefficient=100.0)
    _, weak, _ = record(proximal="constant", proximal_coefficient=0.0)
    assert strong.distance < weak.distance


def test_lambda_is_one_minus_ess_unless_that_says_nothing():
    algorithm, _ = make()
    assert algorithm.proximal_weight(0.3) == pytest.approx(0.7)
    assert algorithm.proximal_weight(float("nan")) == 0.2
    assert algorithm.proximal_weight(1.0) == 0.2
    algorithm, _ = make(proximal="constant")
    assert algorithm.proximal_weight(0.3) == 0.2


def test_the_classifier_sees_new_data_as_new():
    algorithm, buffer = make(propensity_observations=True, weight_clip=5.0, weight_floor=0.0)
    new = filled_buffer(tasks=1, seed=9, shift=3.0, length=10)
    propensity, ess = algorithm.fit_propensity(new, buffer)
    assert 0.0 < ess <= 1.0
    of_new = algorithm.weights(propensity, algorithm.features(algorithm.batch(new, new.sample_indices(0))))
    of_old = algorithm.weights(
        propensity, algorithm.features(algorithm.batch(buffer, buffer.sample_indices(0)))
    )
    assert of_new.mean() > 2.0 * of_old.mean()
    assert len(propensity.weights) == OBS + 3
    plain, _ = make()
    assert len(plain.fit_propensity(new, buffer)[0].weights) == 3


def test_the_classifier_gets_a_share_of_every_tasks_latest_transitions(monkeypatch):
    algorithm, buffer = make(snapshot_steps=3)
    sizes, drawn = [], []
    original = buffer.sample_recent_rows

    def sample(tasks, count, last):
        rows = original(tasks, count, last)
        drawn.append((rows, last))
        return rows

    monkeypatch.setattr(buffer, "sample_recent_rows", sample)
    fit = Propensity.fit.__func__

    def spy(cls, new, old, c):
        sizes.append((len(new), len(old)))
        return fit(cls, new, old, c)

    monkeypatch.setattr(Propensity, "fit", classmethod(spy))
    algorithm.fit_propensity(filled_buffer(tasks=1, length=30), buffer)
    # n // K + 2 = 30 // 7 + 2 of each of 7 tasks.
    assert sizes == [(30, 42)]
    rows, last = drawn[0]
    assert last == 3
    assert (buffer.step_index[rows] >= 7).all()


def test_new_episodes_are_stored_as_they_were():
    algorithm, buffer = make()
    agent = MQLAgent(algorithm, buffer)
    agent.begin_trial(trial(adaptation_episodes=3))
    run_episode(agent, 1)
    run_episode(agent, 2, lengths=(2, 6, 4))
    stored = agent._buffer(0)
    assert len(stored) == 8
    assert stored.step_index[:8].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert stored.terminated[:8].tolist() == [False] * 5 + [True, False, True]
    first = agent.episodes[0][3]
    assert np.array_equal(stored.obs[3], first.observation[0])
    assert np.array_equal(stored.obs_next[3], first.next_observation[0])
    assert stored.rew[3] == np.float32(first.reward[0])


def test_without_adaptation_episodes_nothing_adapts_and_without_replay_nothing_can():
    algorithm, buffer = make()
    agent = algorithm.trial_agent(buffer)
    agent.begin_trial(trial(adaptation_episodes=0))
    run_episode(agent, 1)
    assert agent.diagnostics() == []
    with pytest.raises(ValueError, match="needs the replay buffer"):
        algorithm.trial_agent()
    make(adaptation="none")[0].trial_agent()


def test_values_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="adaptation must be one of full, new, none, not 'some'"):
        MQLConfig(adaptation="some")
    with pytest.raises(ConfigError, match="proximal must be one of ess, constant"):
        MQLConfig(proximal="perhaps")


@pytest.mark.long
def test_adaptation_has_the_environments_reward_where_training_had_another(tmp_path):
    run = tmp_path / "run"
    assert tiny(run, "mql", "MetaPoint-SparseGoal-v0", ["training_reward=dense_reward"]).finished
    report = evaluate_run(run, num_tasks=2, seeds=(0,))
    assert report.returns.shape[:2] == (1, 2)
    assert (report.returns >= 0.0).all()  # the sparse reward
