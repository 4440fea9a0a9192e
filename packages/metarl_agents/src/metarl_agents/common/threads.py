"""Numbers of threads: PyTorch's threads, and our threads for independent parts of a computation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

TPart = TypeVar("TPart")
TResult = TypeVar("TResult")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Limits PyTorch to `count` threads, and restores the old number afterwards.

    The default of a run is one: with any other process on the machine, two threads were measured to
    be slower than one, and independent runs use the cores better.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(work: Callable[[TPart], TResult], parts: Iterable[TPart], threads: int) -> list[TResult]:
    """Applies a function to each part and returns the results in the order of the parts.

    With several threads, each takes the next part when it has finished one, and PyTorch uses one thread
    in each. The results do not depend on the number of threads. PyTorch releases the interpreter lock
    while it computes.
    """
    if threads == 1:
        return [work(part) for part in parts]
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))
