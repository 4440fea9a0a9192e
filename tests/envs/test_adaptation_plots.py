"""Plots of adaptation."""

import dataclasses
import os
import sys

import numpy as np
import pytest
from evaluation_fakes import fake_report

from metarl_envs.evaluation import (
    RandomAgent,
    iqm,
    plot_adaptation,
)


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
