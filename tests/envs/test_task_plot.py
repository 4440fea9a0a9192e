"""The picture of a task space shows every task of every split where it lies."""

import matplotlib.figure
import numpy as np
import pytest
from representatives import first_of_each, ids_with

import metarl_envs
from metarl_envs.pages.task_plot import plot_tasks


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that plots a family and returns the figure's points by their label."""
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs)),
    )

    def draw(family):
        plot_tasks(family, tmp_path / "x.png")
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
        return [
            {
                c.get_label(): np.asarray(c.get_offsets())
                for c in axes.collections
                if not c.get_label().startswith("_")
            }
            for axes in figures.pop().axes
        ]

    return draw


def _form(family_id):
    """What the form of the picture depends on."""
    family = metarl_envs.family(family_id)
    return len(family.parameter_names), family.parameter_units, len(family.splits)


@pytest.mark.long
@pytest.mark.parametrize("family_id", ids_with(first_of_each(_form)))
def test_every_task_is_drawn(family_id, drawn):
    family = metarl_envs.family(family_id)
    points, *others = drawn(family)
    if len(family.parameter_names) == 3:
        for split, offsets in zip(family.splits, others[0].values(), strict=True):
            rows = np.array([task.parameters for task in family.tasks(split)])
            np.testing.assert_array_equal(offsets, rows[:, [0, 2]])
    else:
        assert not others
    assert list(points) == [f"{split.name} ({split.count})" for split in family.splits.values()]
    for split, offsets in zip(family.splits.values(), points.values(), strict=True):
        rows = np.array([task.parameters for task in family.tasks(split.name)])
        if rows.shape[1] in (2, 3):
            np.testing.assert_array_equal(offsets, rows[:, :2])
        elif rows.shape[1] == 4:
            np.testing.assert_array_equal(offsets, rows[:, 2:])
        elif family.parameter_units == ("rad",):
            angles = np.arctan2(offsets[:, 1], offsets[:, 0]) % (2 * np.pi)
            np.testing.assert_allclose(angles, rows[:, 0] % (2 * np.pi), atol=1e-9)
        elif rows.shape[1] == 1:
            np.testing.assert_array_equal(offsets[:, 0], rows[:, 0])
        else:
            np.testing.assert_array_equal(offsets[:, 1].reshape(rows.shape), rows)
            assert np.abs(offsets[:, 0].reshape(rows.shape) - np.arange(rows.shape[1])).max() < 0.5
