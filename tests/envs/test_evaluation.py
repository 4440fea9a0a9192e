"""The trial loop: on episodes whose outcome is known, and on real families."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from evaluation_fakes import HORIZON, FakeVectorEnv, Recorder, fake_family, fake_report

from metarl_envs.evaluation import (
    PROTOCOLS,
    Protocol,
    RandomAgent,
    ZeroAgent,
    evaluate,
    reference_reports,
    summarise,
)


def test_every_episode_is_recorded_exactly():
    report = fake_report(adaptation_episodes=2, scored_episodes=1, seeds=(0, 7))
    expected = {  # per task: two steps of 1, six of -3, four of 0.5
        "returns": [2.0, -18.0, 2.0],
        "lengths": [2, 6, 4],
        "success_once": [True, True, False],
        "success_at_end": [True, False, False],
        "terminated": [True, False, True],
        "diverged": [False, False, True],
    }
    for name, per_task in expected.items():
        array = getattr(report, name)
        assert array.shape == (2, 3, 3)
        np.testing.assert_array_equal(array, np.tile(np.array(per_task)[:, None], (2, 1, 3)))
    np.testing.assert_array_equal(report.reward_terms["reward_big"], 2 * report.returns)
    np.testing.assert_array_equal(sum(report.reward_terms.values()), report.returns)
    np.testing.assert_array_equal(report.scores, [[2.0, -18.0, 2.0]] * 2)


def test_the_agent_sees_whole_trials():
    agent, family = Recorder(), fake_family()
    protocol = Protocol(adaptation_episodes=2, deterministic=False, episodes_per_update=2)
    done = []
    evaluate(
        agent,
        family,
        protocol,
        make_vector_env=FakeVectorEnv,
        progress=lambda *counts: done.append(counts),
    )
    episode = ["act", "observe"] * HORIZON + ["end"]
    assert agent.calls == ["trial", *episode * 3]
    assert done == [(1, 3), (2, 3), (3, 3)]
    (trial,) = agent.trials
    assert (trial.num_tasks, trial.horizon, trial.episodes_per_update) == (3, HORIZON, 2)
    assert (trial.adaptation_episodes, trial.scored_episodes) == (2, 1)
    assert trial.deterministic is False
    assert trial.observation_space.shape == (2,)
    active = np.array([transition.active for transition in agent.transitions[:HORIZON]])
    np.testing.assert_array_equal(active.sum(axis=0), [2, 6, 4])
    for transition in agent.transitions:
        assert not (transition.reward[~transition.active]).any()
        assert "task_id" not in transition.info
    np.testing.assert_array_equal(agent.transitions[0].next_observation, agent.transitions[1].observation)
    (env,) = family.environments
    assert env.closed


def test_an_agent_cannot_change_its_own_score():
    class Tamperer(Recorder):
        def observe(self, transition):
            transition.reward[:] = 100.0
            transition.active[:] = True
            for values in transition.info.values():
                values[:] = 1

    honest, tampered = fake_report(Recorder()), fake_report(Tamperer())
    for name in ("returns", "lengths", "success_once", "diverged"):
        np.testing.assert_array_equal(getattr(honest, name), getattr(tampered, name))


def test_seeds_are_spread_once_per_trial_and_differ_everywhere():
    agent, family = Recorder(), fake_family()
    protocol = Protocol(adaptation_episodes=1, seeds=(0, 1))
    evaluate(agent, family, protocol, make_vector_env=FakeVectorEnv)
    seeds = family.environments[0].seeds
    assert seeds[1] is seeds[3] is None
    given = [*seeds[0], *seeds[2], *(trial.seed for trial in agent.trials)]
    assert len(set(given)) == len(given) == 8
    starts = np.array(agent.starts)[::HORIZON]  # the first steps of the four episodes
    assert len(np.unique(starts)) == starts.size


def test_a_trial_does_not_depend_on_the_other_seeds_and_tasks():
    both, second = Recorder(), Recorder()
    fake_report(both, seeds=(3, 8), adaptation_episodes=1)
    fake_report(second, seeds=(8,), adaptation_episodes=1, num_tasks=2)
    np.testing.assert_array_equal(np.array(both.starts)[2 * HORIZON :, :2], second.starts)
    assert both.trials[1].seed == second.trials[0].seed


def test_oracles_see_the_task_and_others_do_not():
    widths = {}
    for name, agent in {"oracle": Recorder(), "agent": Recorder()}.items():
        agent.observe_task = name == "oracle"
        report = fake_report(agent, adaptation_episodes=0)
        widths[name] = agent.transitions[0].observation.shape[1]
        assert report.provenance.observe_task == agent.observe_task
        assert ("task_id" in agent.transitions[0].info) == agent.observe_task
    assert widths == {"oracle": 5, "agent": 2}


def test_random_agent_is_a_function_of_the_seed():
    first, again = fake_report(RandomAgent(), seeds=(1,)), fake_report(RandomAgent(), seeds=(1,))
    other = fake_report(RandomAgent(), seeds=(2,))
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not np.any(first.returns == other.returns)
    assert np.abs(first.returns - fake_report(ZeroAgent()).returns).max() <= 2 * HORIZON


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((3, 1)), r"agent Bad must return actions of shape \(3, 2\).*got \(3, 1\)"),
        (np.array([[0, 0], [0, np.nan], [np.inf, 0]]), "agent Bad must return finite.* tasks 1, 2"),
        (np.full((3, 2), 1e300), "finite"),
        ("forward", "agent Bad must return actions as numbers"),
        (None, "agent Bad must return"),
    ],
)
def test_bad_actions_name_the_agent_and_close_the_environment(actions, message):
    class Bad(ZeroAgent):
        def act(self, observations):
            return actions

    family = fake_family()
    with pytest.raises(ValueError, match=message):
        evaluate(Bad(), family, Protocol(), make_vector_env=FakeVectorEnv)
    assert family.environments[0].closed


@pytest.mark.parametrize(
    ("protocol", "arguments", "message"),
    [
        ({"split": "ood"}, {}, "Fake-v0 has the splits 'test', not 'ood'"),
        ({"num_tasks": 4}, {}, "num_tasks must be at most 3"),
        ({}, {"tasks": []}, "env_arguments must not contain tasks"),
        ({}, {"bonus": np.float32(1)}, "plain JSON values"),
    ],
)
def test_bad_requests_are_one_clear_error(protocol, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(
            ZeroAgent(),
            fake_family(),
            Protocol(**protocol),
            env_arguments=arguments,
            make_vector_env=FakeVectorEnv,
        )


def test_an_environment_without_a_time_limit_is_an_error():
    family = fake_family()
    family.horizon = HORIZON - 1
    with pytest.raises(RuntimeError, match="1 of 3 episodes went on beyond the time limit of 5"):
        evaluate(ZeroAgent(), family, Protocol(), make_vector_env=FakeVectorEnv)


@pytest.mark.parametrize(("limit", "scored"), [(2, HORIZON), (HORIZON + 4, HORIZON)])
def test_adaptation_episodes_can_have_another_time_limit(limit, scored):
    asked = {}

    class Env(FakeVectorEnv):
        def __init__(self, *arguments, max_episode_steps=None, **named):
            super().__init__(*arguments, **named)
            asked["limit"] = max_episode_steps

    protocol = Protocol(adaptation_episodes=1, scored_episodes=1, adaptation_horizon=limit)
    report = evaluate(ZeroAgent(), fake_family(), protocol, make_vector_env=Env)
    assert asked["limit"] == (limit if limit > HORIZON else None)
    assert report.lengths[..., 0].max() == min(limit, report.lengths.max())
    assert (report.lengths[..., 0] <= limit).all()
    assert (report.lengths[..., 1] <= scored).all()
    assert Protocol.from_dict(protocol.to_dict()) == protocol
    with pytest.raises(ValueError, match="adaptation_horizon must hold integers of at least 1"):
        Protocol(adaptation_horizon=0)


# On real families


@pytest.mark.parametrize("family_id", ["MetaHalfCheetah-Vel-v0", "MetaAnt-Goal-v0"])
def test_real_families_repeat_exactly(family_id):
    protocol = Protocol(adaptation_episodes=1, num_tasks=3, seeds=(0, 1))
    arguments = {"max_episode_steps": 5, "num_threads": 1}
    report = evaluate(RandomAgent(), family_id, protocol, env_arguments=arguments)
    again = evaluate(RandomAgent(), family_id, protocol, env_arguments=arguments)
    np.testing.assert_array_equal(report.returns, again.returns)
    assert len(np.unique(report.returns)) == report.returns.size == 12
    np.testing.assert_allclose(sum(report.reward_terms.values()), report.returns, rtol=1e-12)
    assert report.lengths.max() == 5
    fewer = evaluate(
        ZeroAgent(), family_id, dataclasses.replace(protocol, num_tasks=2), env_arguments=arguments
    )
    zero = evaluate(ZeroAgent(), family_id, protocol, env_arguments=arguments)
    np.testing.assert_array_equal(zero.returns[:, :2], fewer.returns)
    with pytest.raises(ValueError, match="same environment arguments"):
        zero.with_references({"zero": dataclasses.replace(zero, provenance=fake_report().provenance)})


def test_the_point_references_frame_a_random_agent():
    protocol = dataclasses.replace(PROTOCOLS["pearl"], seeds=(0, 1, 2))
    references = reference_reports("MetaPoint-Goal-v0", protocol)
    assert list(references) == ["zero", "random", "oracle"]
    report = evaluate(RandomAgent(), "MetaPoint-Goal-v0", protocol).with_references(references)
    assert report.references["oracle"].mean() > -6 > -15 > report.references["zero"].mean()
    assert -0.5 < summarise(report).gap_closed < 0.5


@pytest.mark.process
def test_importing_the_evaluation_is_light():
    code = (
        "import sys, metarl_envs.evaluation; "
        "print(sorted({'torch', 'tianshou', 'matplotlib', 'mujoco'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
