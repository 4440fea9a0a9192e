"""Where each objective marks its task in a frame, and where success begins."""

import numpy as np
import pytest

from metarl_envs.simulation.motion import Motion
from metarl_envs.simulation.objectives import objective_class

POSITION = np.array([1.0, 2.0, 0.5])


@pytest.mark.parametrize(
    ("objective", "task", "seconds", "marker"),
    [
        ("velocity", [1.5], 2.0, [3.0, 0.0]),
        ("velocity", [1.5, -0.5], 2.0, [3.0, -1.0]),
        ("direction", [1.0], 2.0, [3.0, 0.0]),
        ("direction", [-1.0], 2.0, [-1.0, 0.0]),
        ("direction_2d", [np.pi / 2], 2.0, [1.0, 4.0]),
        ("direction_2d", [np.pi], 2.0, [-1.0, 2.0]),
        ("forward", [], 2.0, [3.0, 0.0]),
        ("goal", [0.3, -0.4], 2.0, [0.3, -0.4]),
        ("on_target", [0.3, -0.4, 0.1], 2.0, [0.3, -0.4, 0.1]),
    ],
)
def test_marker(objective, task, seconds, marker):
    found = objective_class(objective)().marker(POSITION, np.array(task), seconds)
    assert found == pytest.approx(marker, abs=1e-12)


@pytest.mark.parametrize(
    ("objective", "task", "bound", "inwards"),
    [
        ("velocity", [0.0], 0.2, -1),
        ("velocity", [0.0], -0.2, 1),
        ("velocity", [0.0, 0.0], 0.2, -1),
        ("direction", [1.0], 1.0, 1),
        ("direction", [-1.0], -1.0, -1),
        ("direction_2d", [0.0], 1.0, 1),
        ("forward", [], 1.0, 1),
        ("goal", [0.0, 0.0], 0.2, -1),
        ("on_target", [0.0, 0.0], 1.0, -1),
    ],
)
def test_success_begins_at_its_bound(objective, task, bound, inwards):
    beyond = np.nextafter(bound, bound - inwards)
    values = np.array([bound, beyond, bound + inwards * 1e-9])
    rows = np.stack([values, np.zeros(3)], 1)
    motion = Motion(rows, rows, np.zeros((3, 1)), None, None)
    outcome = objective_class(objective)().judge(motion, np.tile(task, (3, 1)).reshape(3, len(task)))
    assert outcome.success.tolist() == [True, False, True]
