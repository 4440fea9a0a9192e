"""How many threads compute: PyTorch's own, and ours over independent parts of a computation."""

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
    """Limits PyTorch to `count` threads, and puts the old number back afterwards.

    One is the default of a run: with any other process on the machine two threads were measured
    slower than one, and independent runs use cores better.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(work: Callable[[TPart], TResult], parts: Iterable[TPart], threads: int) -> list[TResult]:
    """The results of some work on each part, in the order of the parts.

    With several threads each takes the next part when it is done with one, and PyTorch computes with one
    thread in each; what comes out does not depend on how many there are. PyTorch releases the
    interpreter's lock while it computes.
    """
    if threads == 1:
        return [work(part) for part in parts]
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))
