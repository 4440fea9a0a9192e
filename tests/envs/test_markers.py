"""Where each objective marks its task in a frame."""

import numpy as np
import pytest

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
