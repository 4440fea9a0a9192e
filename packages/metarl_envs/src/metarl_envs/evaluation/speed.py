"""How fast an agent adapts, from the returns of all episodes of its trials."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.pooling import Result
from metarl_envs.evaluation.statistics import normalised, running_mean
from metarl_envs.evaluation.summary import Estimate, estimate


def curve_means(result: Result, episodes: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """Mean return (R, T) over some episodes of a trial; of all, it is the area under the curve per episode.

    Args:
        result: A report, or a `Pooled` of several training seeds.
        episodes: Numbers of the first and the last episode, from 1 on; all episodes by default.

    Raises:
        ValueError: If the trials do not have these episodes.
    """
    returns = result.metric("return")
    first, last = (1, returns.shape[-1]) if episodes is None else episodes
    if not 1 <= first <= last <= returns.shape[-1]:
        raise ValueError(
            f"episodes must be two numbers from 1 to {returns.shape[-1]}, the length of a trial, in "
            f"increasing order; got {first} and {last}"
        )
    return np.asarray(returns[..., first - 1 : last].mean(axis=-1), np.float64)


def curve_area(result: Result, episodes: tuple[int, int] | None = None) -> Estimate:
    """Mean over tasks of `curve_means`, with a 95 % interval as in `summarise`."""
    means = curve_means(result, episodes)
    return estimate(means, np.mean, rng=np.random.default_rng(0))


def episodes_until(
    result: Result, share: float = 0.8, *, window: int = 3, low: str = "zero", high: str = "oracle"
) -> int | None:
    """Number of episodes after which the mean return has reached a share of the gap between two references.

    Args:
        result: A report with the references, or a `Pooled`.
        share: The share, 1 for the level of `high`.
        window: Episodes whose mean counts: that episode and those before it.
        low: Name of the reference that counts as 0.
        high: Name of the reference that counts as 1.

    Returns:
        The number, or None if the share is not reached.

    Raises:
        ValueError: If a reference is missing, or `high` is not better than `low`.
    """
    for name in (low, high):
        if name not in result.references:
            raise ValueError(
                f"episodes_until needs the reference {name!r}; the result has "
                f"{', '.join(result.references) or 'none'}"
            )
    levels = [np.atleast_1d(result.references[name].mean()) for name in (low, high)]
    curve = running_mean(result.metric("return").mean(axis=(0, 1)), window)
    reached = np.flatnonzero(normalised(curve[:, None], *levels)[:, 0] >= share)
    return int(reached[0]) + 1 if len(reached) else None
