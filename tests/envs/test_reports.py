"""Reports: their files, references, curves, summaries and comparisons."""

import dataclasses
import functools
import json
import os
import sys

import numpy as np
import pytest
from evaluation_fakes import FakeVectorEnv, fake_family, fake_report

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
    reference_reports,
    summarise,
)
from metarl_envs.evaluation.provenance import command_line


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
    assert "over tasks (only one trial seed)" in summarise(one).interval
    assert "over trial seeds, stratified by task" in summarise(two).interval
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
    assert str(both).startswith("first:  random: IQM")
    assert "not separable: an interval includes zero" in str(both)
    assert "has the higher score" in str(result)
    for changed, what in (
        (dataclasses.replace(second, family="Other-v0"), "family"),
        (dataclasses.replace(second, protocol=dataclasses.replace(protocol, seeds=(0, 1, 3))), "seeds"),
        (dataclasses.replace(second, tasks=tuple(reversed(second.tasks))), "tasks"),
    ):
        with pytest.raises(ValueError, match=f"results on the same {what}"):
            compare(first, changed)
