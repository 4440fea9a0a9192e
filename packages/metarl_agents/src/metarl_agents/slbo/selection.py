"""Active selection of training tasks: tasks that the dynamics already know are skipped.

Landolfi et al. 2019 (arXiv:1907.04964), with the constants of the released code. A
task is rated after the warm-up; a high rating means that the dynamics are wrong where its policy goes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Ratings with which a new one is compared, and the quantile of them that it must reach.
WINDOW, QUANTILE = 10, 0.5
#: Last inner iterations of a warm-up from which a task is rated.
RATED_ITERATIONS = 10


def performed(ratings: Sequence[float], window: int = WINDOW, quantile: float = QUANTILE) -> bool:
    """Whether the task with the last rating is trained on.

    It is skipped if its rating is below a quantile of those before it. As long as there are too few of them,
    no task is skipped.

    Args:
        ratings: ratings of all tasks so far, of skipped ones too; the last one decides.
        window: number of ratings before the last one that it is compared with.
        quantile: the quantile, linearly interpolated.
    """
    if len(ratings) <= window:
        return True
    return bool(ratings[-1] >= np.quantile(ratings[-window - 1 : -1], quantile))


def estimated_rating(
    first_returns: Sequence[float], last_returns: Sequence[float], iterations: int = RATED_ITERATIONS
) -> float:
    """Mean fall of the virtual return when the dynamics are fitted further; it costs no real step.

    Args:
        first_returns: virtual return at the start of each inner iteration of a warm-up, after the fit.
        last_returns: virtual return at the end of each inner iteration.
        iterations: number of the last inner iterations to take the mean over.

    Raises:
        ValueError: for a warm-up of one inner iteration, which has no fall.
    """
    if len(first_returns) < 2:
        raise ValueError("a rating needs a warm-up of at least 2 inner iterations")
    falls = np.subtract(last_returns[:-1], first_returns[1:])
    return float(falls[-iterations:].mean())
