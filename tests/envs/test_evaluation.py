"""Protocols, the trial loop, reports and plots."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

import metarl_envs
from metarl_envs.evaluation import (
    PROTOCOLS,
    Protocol,
    RandomAgent,
    Report,
    ScriptedOracle,
    ZeroAgent,
    adaptation_curve,
    compare,
    evaluate,
    iqm,
    plot_adaptation,
    reference_reports,
    register_scripted_oracle,
    scripted_oracle,
    summarise,
)
from metarl_envs.evaluation.provenance import command_line

HORIZON = 6
# A task is (steps until it terminates by itself, reward per step, step of the only success).
FAKE_TASKS = ((2, 1.0, 2), (9, -3.0, 4), (4, 0.5, 5))


class FakeVectorEnv:
    """Episodes whose lengths and rewards are known, with the contract of `MetaVectorEnv`."""

    single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, family, num_envs, *, split, tasks, observe_task, autoreset_mode, bonus=0.0):
        assert (split, autoreset_mode, num_envs) == ("test", AutoresetMode.DISABLED, len(tasks))
        self.vectors = np.array([task.parameters for task in tasks])
        self.observe_task, self.bonus = observe_task, bonus
        self.single_observation_space = gymnasium.spaces.Box(-9, 9, (5 if observe_task else 2,), np.float32)
        self.seeds, self.closed = [], False
        family.environments.append(self)

    def reset(self, seed=None):
        self.seeds.append(seed)
        if seed is not None:
            self.rngs = [np.random.default_rng(s) for s in seed]
        self.starts = np.array([rng.uniform() for rng in self.rngs])
        self.elapsed = np.zeros(len(self.vectors), int)
        self.ended = np.zeros(len(self.vectors), bool)
        return self._observations(), self._info(np.zeros(len(self.vectors)), self.ended)

    def step(self, actions, mask=None):
        moving = np.ones(len(self.vectors), bool) if mask is None else mask
        assert not (moving & self.ended).any()
        self.elapsed = self.elapsed + moving
        rewards = np.where(moving, self.vectors[:, 1] + self.bonus + actions.sum(axis=1), 0.0)
        terminated = moving & (self.elapsed == self.vectors[:, 0])
        truncated = moving & (self.elapsed == HORIZON)
        self.ended = self.ended | terminated | truncated
        info = self._info(rewards, terminated)
        for key in ("reward_big", "reward_small", "success", "diverged"):
            info[key][~moving] = 1  # nobody may look at the rows of those who wait
        return self._observations(), rewards, terminated, truncated, info

    def _observations(self):
        columns = [self.starts[:, None], self.elapsed[:, None]]
        if self.observe_task:
            columns.append(self.vectors)
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _info(self, rewards, diverged):
        count = len(self.vectors)
        return {
            "reward_big": 2 * rewards,
            "reward_small": -rewards,
            "success": self.elapsed == self.vectors[:, 2],
            "diverged": diverged & (self.vectors[:, 0] == 4),
            "task_id": np.arange(count),
            "_task_id": np.ones(count, bool),
        }

    def close(self):
        self.closed = True


def fake_family():
    tasks = tuple(
        metarl_envs.Task("Fake-v0", "test", index, parameters) for index, parameters in enumerate(FAKE_TASKS)
    )
    family = SimpleNamespace(
        id="Fake-v0",
        horizon=HORIZON,
        splits={"test": None},
        train_equals_test=False,
        tasks=lambda split: (metarl_envs.Family.split(family, split), tasks)[1],
        model_checksum=lambda: "abc",
        environments=[],
    )
    return family


class Recorder:
    """Zero actions; keeps everything it is shown."""

    def __init__(self):
        self.calls, self.transitions, self.trials, self.starts = [], [], [], []

    def begin_trial(self, trial):
        self.calls.append("trial")
        self.trials.append(trial)

    def act(self, observations):
        self.calls.append("act")
        self.starts.append(observations[:, 0].copy())
        return np.zeros((len(observations), 2))

    def observe(self, transition):
        self.calls.append("observe")
        self.transitions.append(transition)

    def end_episode(self):
        self.calls.append("end")


def fake_report(agent=None, **protocol):
    return evaluate(agent or ZeroAgent(), fake_family(), Protocol(**protocol), make_vector_env=FakeVectorEnv)


# Protocols


@given(
    st.builds(
        lambda updates, per, **rest: Protocol(
            adaptation_episodes=updates * per, episodes_per_update=per, **rest
        ),
        st.integers(0, 5),
        st.integers(1, 30),
        split=st.sampled_from(["train", "validation", "test", "ood"]),
        scored_episodes=st.integers(1, 50),
        deterministic=st.booleans(),
        seeds=st.lists(st.integers(0, 2**40), min_size=1, unique=True).map(tuple),
        num_tasks=st.none() | st.integers(1, 100),
        name=st.text(),
    )
)
@settings(deadline=None)
def test_protocol_round_trips_through_json(protocol):
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_presets_carry_the_papers_numbers():
    shapes = {
        name: (p.adaptation_episodes, p.scored_episodes, p.episodes_per_update, p.deterministic)
        for name, p in PROTOCOLS.items()
    }
    assert shapes == {
        "pearl": (2, 1, 1, True),
        "pearl_sparse": (19, 1, 1, True),
        "mql": (1, 2, 1, True),
        "mql_1200": (6, 2, 1, True),
        "mql_800": (1, 2, 1, True),
        "maml": (60, 20, 20, False),
        "promp": (20, 20, 20, False),
        "rl2": (1, 1, 1, False),
        "tesp": (100, 25, 25, False),
        "promp_2": (40, 20, 20, False),
        "meta_sgd": (75, 25, 25, False),
        "iwpa": (37, 3, 1, False),
        "slbo": (80, 20, 20, False),
    }
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert len(protocol.source) > 40
        assert Protocol.from_dict(protocol.to_dict()) == protocol


def test_numpy_integers_become_plain_ones():
    protocol = Protocol(adaptation_episodes=np.int64(3), seeds=np.array([4, 5]))
    assert json.loads(json.dumps(protocol.to_dict()))["seeds"] == [4, 5]
    assert protocol == Protocol(adaptation_episodes=3, seeds=(4, 5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adaptation_episodes": -1}, "adaptation_episodes must hold integers of at least 0"),
        ({"adaptation_episodes": 1.5}, "adaptation_episodes must hold integers"),
        ({"scored_episodes": 0}, "scored_episodes must hold integers of at least 1"),
        ({"scored_episodes": True}, "scored_episodes must hold integers"),
        ({"adaptation_episodes": 3, "episodes_per_update": 2}, "multiple of episodes_per_update"),
        ({"num_tasks": 0}, "num_tasks must hold integers of at least 1"),
        ({"seeds": ()}, "one or more different integers"),
        ({"seeds": (1, 1)}, "one or more different integers"),
        ({"seeds": (-1,)}, "seeds must hold integers of at least 0"),
        ({"seeds": "01"}, "seeds must be a sequence"),
        ({"seeds": 3}, "seeds must be a sequence"),
        ({"deterministic": "yes"}, "deterministic must be True or False"),
        ({"split": ""}, "split must name"),
        ({"name": 3}, "name must be a string"),
    ],
)
def test_protocol_refuses_what_it_cannot_mean(values, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**values)


def test_protocol_names_unknown_fields():
    with pytest.raises(ValueError, match="unknown protocol fields episodes"):
        Protocol.from_dict({"episodes": 3})


# The trial loop, on episodes whose outcome is known


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


def test_reports_on_the_same_tasks_are_compared_pair_by_pair():
    protocol = Protocol(adaptation_episodes=0, seeds=(0, 1, 2))
    first = evaluate(RandomAgent(), fake_family(), protocol, make_vector_env=FakeVectorEnv)
    second = evaluate(ZeroAgent(), fake_family(), protocol, make_vector_env=FakeVectorEnv)
    shifted = dataclasses.replace(second, returns=second.returns + 2.0)
    result = compare(shifted, second)
    # Everywhere the same difference: an interval without width, though the tasks differ.
    assert tuple(result.difference) == pytest.approx((2.0, 2.0, 2.0))
    assert tuple(result.difference_iqm) == pytest.approx((2.0, 2.0, 2.0))
    assert result.better == 1.0
    assert compare(second, shifted).difference.value == pytest.approx(-2.0)
    assert compare(second, second).better == 0.5
    assert result.scores[0] - result.scores[1] == pytest.approx(2.0)
    both = compare(first, second, names=("random", "zero"))
    assert both.names == ("random", "zero")
    assert both.difference.value == pytest.approx((first.scores - second.scores).mean())
    assert str(both).startswith("random: IQM")
    for changed, what in (
        (dataclasses.replace(second, family="Other-v0"), "family"),
        (dataclasses.replace(second, protocol=dataclasses.replace(protocol, seeds=(0, 1, 3))), "seeds"),
        (dataclasses.replace(second, tasks=tuple(reversed(second.tasks))), "tasks"),
    ):
        with pytest.raises(ValueError, match=f"reports on the same {what}"):
            compare(first, changed)


# Reports


def test_report_round_trips_through_its_file(tmp_path):
    report = evaluate(
        RandomAgent(),
        fake_family(),
        PROTOCOLS["pearl"],
        env_arguments={"bonus": 0.1},
        make_vector_env=functools.partial(FakeVectorEnv),
        agent_name="random",
    )
    report = report.with_references({"itself": report})
    path = tmp_path / "new" / "report.json"
    report.to_json(path)
    report.to_json(path)  # over an older one
    again = Report.from_json(path)
    assert again.to_dict() == report.to_dict()
    np.testing.assert_array_equal(again.returns, report.returns)
    assert again.success_once.dtype == np.bool_
    assert again.protocol == PROTOCOLS["pearl"]
    assert os.listdir(path.parent) == ["report.json"]
    provenance = json.loads(path.read_text())["provenance"]
    assert provenance["model_checksum"] == "abc"
    assert provenance["env_arguments"] == {"bonus": 0.1}
    assert provenance["versions"]["numpy"] == np.__version__
    assert len(provenance["table_sha256"]) == 64
    assert provenance["command_line"] == command_line()
    assert os.path.basename(sys.executable) in command_line()
    assert os.path.dirname(sys.executable) not in command_line()


def test_whoever_reads_a_file_reads_it_whole(tmp_path):
    path, reader = tmp_path / "report.json", tmp_path / "reader"
    path.write_text("old")
    os.link(path, reader)  # as good as a reader who has opened it
    fake_report().to_json(path)
    assert reader.read_text() == "old"
    assert Report.from_json(path).agent == "ZeroAgent"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")
    report = fake_report()
    with pytest.raises(ValueError, match="JSON compliant"):
        dataclasses.replace(report, wall_time=float("nan")).to_json(path)

    def fail(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.to_json(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_damaged_file_is_one_clear_error(tmp_path):
    path = tmp_path / "report.json"
    values = fake_report().to_dict()
    damaged = [
        ("{", "does not contain a report"),
        ("[]", "does not contain a report"),
        (json.dumps({**values, "format": "other"}), "format"),
        (json.dumps({k: v for k, v in values.items() if k != "lengths"}), "lengths"),
        (json.dumps({**values, "returns": [[[1.0]]]}), r"returns .* shape \(1, 3, 3\)"),
    ]
    for text, message in damaged:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Report.from_json(path)


def test_references_normalise_the_score():
    low = fake_report(ScriptedOracle(lambda o: np.full((len(o), 2), -1.0)), adaptation_episodes=0)
    high = fake_report(ScriptedOracle(lambda o: np.full((len(o), 2), 1.0)), adaptation_episodes=0)
    report = fake_report().with_references({"zero": low, "oracle": high})
    # Actions of -1 and 1 move every step's reward by -2 and 2; none is half way.
    np.testing.assert_allclose(report.normalised_scores(), 0.5)
    summary = summarise(report)
    assert summary.gap_closed == pytest.approx(0.5)
    assert summary.references == {"zero": iqm(low.scores), "oracle": iqm(high.scores)}
    with pytest.raises(ValueError, match="need the reference 'random'"):
        report.normalised_scores(low="random")
    with pytest.raises(ValueError, match="high must exceed low"):
        report.normalised_scores(low="oracle", high="zero")
    with pytest.raises(ValueError, match="same seeds"):
        report.with_references({"zero": fake_report(seeds=(5,))})
    with pytest.raises(ValueError, match="same tasks"):
        report.with_references({"zero": fake_report(num_tasks=2)})


def test_reference_reports_run_scored_episodes_only():
    protocol = Protocol(adaptation_episodes=4, scored_episodes=2, num_tasks=2)
    references = reference_reports(fake_family(), protocol, make_vector_env=FakeVectorEnv)
    assert list(references) == ["zero", "random"]
    assert references["zero"].returns.shape == (1, 2, 2)
    np.testing.assert_array_equal(references["zero"].scores, [[2.0, -18.0]])


def test_adaptation_curve_groups_episodes_of_one_policy():
    class Improver(ZeroAgent):
        def begin_trial(self, trial):
            super().begin_trial(trial)
            self.episode = 0

        def act(self, observations):
            return np.full((len(observations), 2), self.episode // 2 / 4)

        def end_episode(self):
            self.episode += 1

    protocol = {"adaptation_episodes": 4, "episodes_per_update": 2, "scored_episodes": 3}
    report = fake_report(Improver(), seeds=(0, 1), **protocol)
    curve = adaptation_curve(report, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(curve.first_episode, [1, 3, 5, 7])
    np.testing.assert_array_equal(curve.last_episode, [2, 4, 6, 7])
    per_step = np.array([[1.0, -3.0, 0.5]]).T + 2 * np.arange(4) / 4
    expected = iqm(np.stack([per_step * [[2], [6], [4]]] * 2), axis=(0, 1))
    np.testing.assert_allclose(curve.estimate, expected)
    # The runs of a seedless environment are equal, so there is nothing to be unsure of.
    np.testing.assert_allclose(curve.low, curve.estimate)
    np.testing.assert_allclose(curve.high, curve.estimate)
    np.testing.assert_allclose(report.scores, report.returns[:, :, 4:].mean(axis=-1))
    assert np.all(report.scores > report.returns.mean(axis=-1))
    # Scored actions of 1/2, 1/2 and 3/4 after first ones of 0, in episodes of 2, 6 and 4 steps.
    rise = summarise(report).rise
    np.testing.assert_allclose(rise.value, 2 * np.mean([0.5, 0.5, 0.75]) * np.mean([2, 6, 4]))
    assert rise.low <= rise.value <= rise.high
    assert "rise from episodes 1-2 to the score" in str(summarise(report))
    assert summarise(fake_report(adaptation_episodes=0)).rise is None
    single = adaptation_curve(report, "success_at_end", group=1, rng=np.random.default_rng(0))
    np.testing.assert_allclose(single.estimate, [1 / 3] * 7)
    with pytest.raises(ValueError, match="metric must be one of return, length"):
        adaptation_curve(report, "reward", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="group must be at least 1"):
        adaptation_curve(report, group=0, rng=np.random.default_rng(0))


def test_summary_says_which_bootstrap_it_used():
    one, two = fake_report(), fake_report(RandomAgent(), seeds=(0, 1))
    assert "over tasks (only one run)" in summarise(one).interval
    assert "over runs, stratified by task" in summarise(two).interval
    assert "none" in summarise(fake_report(num_tasks=1)).interval
    assert summarise(one).score == ((2 - 18 + 2) / 3, -18.0, 2.0)  # too few tasks to trim
    assert summarise(two).score == summarise(two).score


def test_summary_is_a_table():
    lines = str(summarise(fake_report(agent=ZeroAgent(), name="mine"), repetitions=50)).splitlines()
    assert lines[0] == "ZeroAgent on Fake-v0 (test), protocol mine"
    assert lines[3].startswith("episode  return (IQM)")
    assert lines[3].endswith("success once       success at end")
    assert [line.split()[0] for line in lines[5:9]] == ["1", "2", "3", "score"]
    assert "diverged episodes: 3" in lines


# Plots


@pytest.fixture
def figures(monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig

    def record(self, *arguments, **options):
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    return drawn


def test_plot_shows_curves_intervals_and_references(tmp_path, figures):
    reference = fake_report(adaptation_episodes=0)
    random = fake_report(RandomAgent()).with_references({"zero": reference, "same": reference})
    zero = fake_report()
    path = tmp_path / "curve.png"
    plot_adaptation([random, zero], path, title="A title")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert os.listdir(tmp_path) == ["curve.png"]
    (axes,) = figures[0].axes
    curves = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    np.testing.assert_allclose(curves["ZeroAgent"][:, 1], iqm(zero.returns, axis=(0, 1)))
    np.testing.assert_array_equal(curves["RandomAgent"][:, 0], [0, 1, 2])
    assert len(axes.collections) == 2
    dashed = [line.get_ydata()[0] for line in axes.get_lines() if line.is_dashed()]
    assert dashed == [iqm(reference.scores)] * 2
    assert [text.get_text() for text in axes.texts] == ["zero,\nsame"]
    assert axes.get_title(loc="left") == "A title"


def test_plot_of_a_single_episode_has_error_bars(tmp_path, figures):
    plot_adaptation(fake_report(adaptation_episodes=0), tmp_path / "one.png", metric="success_once")
    (axes,) = figures[0].axes
    assert len(axes.containers) == 1
    assert axes.get_xlim() == (-0.6, 0.6)


def test_plot_refuses_what_does_not_compare(tmp_path):
    other = dataclasses.replace(fake_report(), family="Other-v0")
    with pytest.raises(ValueError, match="one family and split"):
        plot_adaptation([fake_report(), other], tmp_path / "x.png")
    with pytest.raises(ValueError, match="one family and split, got none"):
        plot_adaptation([], tmp_path / "x.png")
    assert os.listdir(tmp_path) == []


def test_plot_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"metarl-envs\[plot\]"):
        plot_adaptation(fake_report(), tmp_path / "x.png")


# On real families


def straight_line_distances(start, goal, steps):
    """Distances after each step to the goal, at 0.1 per step of the longer coordinate."""
    delta = goal - start
    length, longest = np.linalg.norm(delta, axis=1), np.abs(delta).max(axis=1)
    left = 1.0 - 0.1 * np.arange(1, steps + 1) / longest[:, None]
    return length[:, None] * np.maximum(left, 0.0)


@pytest.mark.parametrize("family_id", ["MetaPoint-Goal-v0", "MetaPoint-SparseGoal-v0"])
def test_the_point_oracle_earns_the_closed_form(family_id):
    family = metarl_envs.family(family_id)
    oracle, seen = scripted_oracle(family_id), []

    def watched(observations):
        seen.append(observations.astype(np.float64))
        return oracle.controller(observations)

    agent = ScriptedOracle(watched)
    report = evaluate(agent, family, Protocol(adaptation_episodes=1, seeds=(5,)))
    for episode in range(2):
        first = seen[episode * family.horizon]
        distances = straight_line_distances(first[:, :2], first[:, 2:], family.horizon)
        if family_id == "MetaPoint-Goal-v0":
            rewards = -distances
        else:
            # On the very edge of the goal, rounding decides; keep clear of it.
            distances = np.where(np.abs(distances - 0.2) < 1e-6, np.nan, distances)
            rewards = np.where(distances <= 0.2, 1.0 - distances, 0.0 * distances)
        clear = np.isfinite(rewards).all(axis=1)
        assert clear.sum() >= 15
        returns = report.returns[0, :, episode]
        np.testing.assert_allclose(returns[clear], rewards.sum(axis=1)[clear], atol=1e-5)
    assert report.success_at_end.all()


def test_oracles_are_registered_once(monkeypatch):
    oracles = "metarl_envs.evaluation.scripted._ORACLES"
    monkeypatch.setattr(oracles, dict(metarl_envs.evaluation.scripted._ORACLES))
    register_scripted_oracle("Fake-v1", ZeroAgent)
    assert isinstance(scripted_oracle("Fake-v1"), ZeroAgent)
    assert scripted_oracle("Unheard-Of-v0") is None
    with pytest.raises(ValueError, match="already has a scripted oracle"):
        register_scripted_oracle("MetaPoint-Goal-v0", ZeroAgent)


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


ORACLES = [i for i in metarl_envs.registered_ids() if scripted_oracle(i) is not None]


@pytest.mark.long
@pytest.mark.parametrize("family_id", ORACLES)
def test_scripted_oracles_reach_and_hold_their_goals(family_id):
    family = metarl_envs.family(family_id)
    for split in (name for name in family.splits if name != "train"):
        protocol = Protocol(split=split, adaptation_episodes=0, scored_episodes=1)
        reports = reference_reports(family_id, protocol)
        reached = reports["oracle"].success_at_end[0, :, 0]
        goals = np.array([task.parameters for task in family.tasks(split)])
        # The two-link arm cannot fold further than its joint's 160 degrees.
        nearest = 0.0
        if family_id == "MetaReacher2-Goal-v0":
            nearest = np.sqrt(0.75**2 + 0.95**2 + 2 * 0.75 * 0.95 * np.cos(np.deg2rad(160)))
        reachable = np.hypot(*goals.T[:2]) > nearest - 0.01
        # Eighteen metres are too far for ten seconds, and an elbow may be in the way.
        least = {"MetaQuadruped-GoToRing-v0": 0.9, "MetaJaco-Reach-v0": 0.99}.get(family_id, 1.0)
        assert reached[reachable].mean() >= least
        assert reports["oracle"].scores.mean() > 0.5 * reports["zero"].scores.mean()
        assert reports["oracle"].scores.mean() > reports["random"].scores.mean()
