"""Checks of what users hand to an environment, and what the environments draw and run with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from metarl_envs.families.schema import listed

RENDER_MODES = ("rgb_array",)
FRAME_SIZE = (480, 480)
"""Height and width of a rendered frame, in pixels."""
MOST_SIMULATIONS = 1_000_000
MOST_THREADS = 1024


def available_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_render_mode(render_mode: str | None) -> None:
    """Raises ValueError for a render mode that does not exist."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")


def checked_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Returns an autoreset mode from itself or its value.

    Raises:
        ValueError: there is no such mode.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    values = [known.value for known in AutoresetMode]
    if mode not in values:
        raise ValueError(f"autoreset_mode must be one of {listed(values)}, got {mode!r}")
    return AutoresetMode(mode)


def check_seed(seed: Any) -> None:
    """Raises ValueError for what is not a seed: neither None nor a non-negative integer."""
    if seed is None:
        return
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"a seed is None or a non-negative integer, got {seed!r}")


def checked_options(options: Any) -> dict[str, Any]:
    """Returns a copy of the options of a reset.

    Raises:
        ValueError: they are neither None nor a mapping.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"options must be None or a dict, got {options!r}")
    return dict(options or {})


def check_flag(name: str, value: Any) -> None:
    """Raises ValueError for what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_not_closed(closed: bool) -> None:
    """Raises RuntimeError when an environment is used after `close`."""
    if closed:
        raise RuntimeError("the environment is closed; make a new one")


def check_count(name: str, value: Any, most: int | None = None) -> None:
    """Raises ValueError for what is not a positive integer, or larger than `most`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:,}, got {value:,}")


def checked_mask(name: str, mask: Any, num: int) -> NDArray[np.bool_]:
    """Returns a mask of simulations.

    Raises:
        ValueError: it is not an array `(num,)` of bool.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise ValueError(f"{name} must be a NumPy array of bool, got {mask!r}")
    if mask.shape != (num,):
        raise ValueError(f"{name} must have shape ({num},), got {mask.shape}")
    return mask


def spread_seeds(seed: Any, num: int) -> list[int | None]:
    """Returns a seed per simulation, as Gymnasium's vector environments spread them.

    Args:
        seed: None for none, an integer for `seed + i`, or a sequence with one per simulation.
        num: the number of simulations.

    Raises:
        ValueError: a seed is none, or their number is wrong.
    """
    if isinstance(seed, str | bytes) or not isinstance(seed, Sequence | np.ndarray) or np.ndim(seed) == 0:
        check_seed(seed)
        return [None if seed is None else int(seed) + i for i in range(num)]
    if len(seed) != num:
        raise ValueError(f"a sequence of seeds has one per simulation ({num}), got {len(seed)}")
    for one in seed:
        check_seed(one)
    return [None if one is None else int(one) for one in seed]
