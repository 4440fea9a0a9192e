"""What a body did in one step, as objectives and costs see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(slots=True)
class Motion:
    """What a body did in one step.

    Attributes:
        position: of the body's tracked point after the step, `(N, D)`, in metres.
        velocity: its finite difference over the step, `(N, D)`, in metres per second.
        actions: the applied actions after clipping to [-1, 1], `(N, A)`.
        contact_forces: external wrenches per body, `(N, bodies · 6)`, where the body was asked for them.
        fallen: which simulations are in a state that ends their episode, `(N,)`, or None for none.
    """

    position: Array
    velocity: Array
    actions: Array
    contact_forces: Array | None = None
    fallen: NDArray[np.bool_] | None = None
