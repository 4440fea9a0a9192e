"""Several training seeds as one result: statistics, comparison, condensed reports, and pictures."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from metarl_envs.evaluation import (
    Pooled,
    Protocol,
    RandomAgent,
    Report,
    adaptation_curve,
    compare,
    iqm,
    plot_adaptation,
    pooled,
    summarise,
)

from evaluation_fakes import FakeVectorEnv, fake_family  # isort: skip
from metarl_envs.evaluation import evaluate  # isort: skip


def reports(count, seeds=(0, 1), shift=0.0, **protocol):
    """Reports of training seeds: the same trials, and returns that differ by known amounts."""
    chosen = Protocol(**{"adaptation_episodes": 2, "scored_episodes": 1, "seeds": seeds} | protocol)
    base = evaluate(RandomAgent(), fake_family(), chosen, make_vector_env=FakeVectorEnv, agent_name="a")
    return [
        dataclasses.replace(base, returns=base.returns + shift + 10.0 * number) for number in range(count)
    ]


def test_training_seeds_are_the_unit_and_trial_seeds_are_averaged():
    found = reports(3)
    result = pooled(found)
    assert result.scores.shape == (3, 3)
    np.testing.assert_allclose(result.scores, [report.scores.mean(axis=0) for report in found])
    summary = summarise(found)
    assert summary.score.value == pytest.approx(iqm(result.scores))
    assert summary.interval == "bootstrap over training seeds, stratified by task"
    assert summary.size.startswith("3 tasks, 3 training seeds, 2 trial seeds; ")
    # The seeds are 10 apart, so the interval is far wider than that of one of them over its trials.
    assert summary.score.high - summary.score.low > 5.0
    assert summary.score.low <= summary.score.value <= summary.score.high
    curve = adaptation_curve(result, "success_once", rng=np.random.default_rng(0))
    assert curve.statistic == "mean"
    np.testing.assert_allclose(curve.estimate, found[0].success_once.mean(axis=(0, 1)))


def test_one_training_seed_is_called_one_and_is_the_report_itself():
    (only,) = reports(1)
    assert pooled([only]) is only
    assert summarise([only]).size.startswith("3 tasks, 1 training seed, 2 trial seeds; ")
    assert summarise([only]).score == summarise(only).score


def test_reports_that_are_no_seeds_of_one_agent_are_refused():
    one, two = reports(2)
    for what, other in (
        ("agent", dataclasses.replace(two, agent="b")),
        ("family", dataclasses.replace(two, family="Other-v0")),
        ("protocol", reports(1, seeds=(0, 2))[0]),
        ("tasks", dataclasses.replace(two, tasks=two.tasks[::-1])),
    ):
        with pytest.raises(ValueError, match=f"training seeds must have the same {what}"):
            pooled([one, other])
    with pytest.raises(ValueError, match="at least one report"):
        Pooled(())


def test_seeds_of_two_agents_are_compared_over_seeds_and_one_seed_over_tasks():
    low, high = pooled(reports(3)), pooled(reports(3, shift=100.0))
    result = compare(high, low, names=("high", "low"))
    assert result.difference.value == pytest.approx(100.0)
    assert result.separable
    assert result.better == 1.0
    assert "paired over 3 tasks (3 and 3 training seeds)" in str(result)
    assert "bootstrap over training seeds of both sides" in result.interval
    assert "high has the higher score" in str(result)
    assert "high has the higher score" in str(compare(low, high, names=("low", "high")))
    same = compare(low, low)
    assert same.better == 0.5
    assert same.difference.value == 0.0
    assert not same.separable
    assert "not separable: an interval includes zero" in str(same)
    one = compare(pooled(reports(3)), reports(1)[0])
    assert one.difference.value == pytest.approx(10.0)
    assert "one side has one training seed" in one.interval
    with pytest.raises(ValueError, match="results on the same seeds"):
        compare(low, reports(1, seeds=(5, 6))[0])


@settings(max_examples=20, deadline=None)
@given(
    batches=st.integers(1, 3),
    size=st.integers(1, 4),
    scored=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_condensed_report_has_the_same_scores_curves_and_rise(batches, size, scored, seed):
    shape = {"adaptation_episodes": batches * size, "scored_episodes": scored * size}
    (base,) = reports(1, episodes_per_update=size, **shape)
    returns = np.random.default_rng(seed).normal(size=base.returns.shape)
    report = dataclasses.replace(base, returns=returns)
    small = Report.from_dict(json.loads(json.dumps(report.condense().to_dict())))
    assert small.condensed
    np.testing.assert_allclose(small.scores, report.scores)
    full, kept = summarise(report, repetitions=20), summarise(small, repetitions=20)
    np.testing.assert_allclose(kept.returns.points(), full.returns.points())
    np.testing.assert_allclose(kept.success_once.points(), full.success_once.points())
    np.testing.assert_allclose(kept.rise, full.rise)
    assert kept.diverged == full.diverged
    assert np.array(small.to_dict()["returns"]).shape[-1] == batches + scored
    np.testing.assert_allclose(small.condense().returns, small.returns)


def test_success_at_the_end_may_be_missing_from_a_report(tmp_path):
    whole, other = reports(2)
    part = dataclasses.replace(whole.condense(), success_at_end=None, wall_time=None)
    part.to_json(tmp_path / "report.json")
    again = Report.from_json(tmp_path / "report.json")
    assert again.success_at_end is None
    assert again.to_dict() == part.to_dict()
    assert "success_at_end" not in pooled([again, other]).metrics
    summary = summarise(again, repetitions=20)
    assert summary.success_at_end is None
    assert "not recorded" in str(summary)
    assert summary.score == summarise(whole, repetitions=20).score
    with pytest.raises(ValueError, match="metric must be one of return, length, success_once, terminated"):
        again.metric("success_at_end")
    with pytest.raises(ValueError, match="lengths of a report must not be null"):
        Report.from_dict({**part.to_dict(), "lengths": None})


def test_scored_episodes_that_are_no_whole_batch_cannot_be_condensed():
    (report,) = reports(1, adaptation_episodes=4, scored_episodes=1, episodes_per_update=2)
    with pytest.raises(ValueError, match="whole batches of episodes"):
        report.condense()


def test_a_picture_shows_seeds_as_thin_lines_and_says_what_its_band_is_over(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (drawn.append(self), path.touch()))
    named = [dataclasses.replace(report, agent="b") for report in reports(2, shift=5.0)]
    plot_adaptation([pooled(reports(3)), pooled(named)], tmp_path / "a.png")
    plot_adaptation(reports(1), tmp_path / "b.png")
    several, single = drawn
    axes = several.axes[0]
    thin = [line for line in axes.lines if line.get_linewidth() < 1 and len(line.get_xdata()) == 3]
    assert len(thin) == 3 + 2
    assert len({line.get_color() for line in thin}) == 2
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"a", "b"}
    assert axes.get_ylabel() == "return of an episode, IQM"
    caption = several.get_supxlabel()
    assert "3 training seeds, 2 trial seeds / 3 tasks, 2 training seeds" in caption
    assert "Thin lines: training seeds." in caption
    assert "Band: 95% interval, bootstrap over training seeds, stratified by task." in caption
    assert "1 training seed, 2 trial seeds" in single.get_supxlabel()
    assert "bootstrap over trial seeds" in single.get_supxlabel()
    assert "Thin lines" not in single.get_supxlabel()


def test_a_picture_of_many_results_has_their_names_above_and_no_lines_of_seeds(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (drawn.append(self), path.touch()))
    names = "abcde"
    results = [pooled([dataclasses.replace(r, agent=name) for r in reports(2)]) for name in names]
    plot_adaptation(results, tmp_path / "a.png")
    (figure,) = drawn
    assert figure.axes[0].get_legend() is None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(names)
    assert not [line for line in figure.axes[0].lines if line.get_linewidth() < 1]
    assert "Thin lines" not in figure.get_supxlabel()
