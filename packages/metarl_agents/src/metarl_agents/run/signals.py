"""Stopping a run by SIGINT or SIGTERM without losing what it has learned."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Signals:
    """What signals have asked for.

    Attributes:
        stop: whether the run stops when the iteration ends: true after the first signal.
        on_first: called at the first signal.
    """

    def __init__(self) -> None:
        self.stop = False
        self.on_first: Callable[[], None] = lambda: None

    def handle(self, number: int, frame: Any) -> None:
        """Handles a signal; the second one raises `KeyboardInterrupt`."""
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        self.on_first()


@contextmanager
def handled_signals() -> Iterator[Signals]:
    """Handles SIGINT and SIGTERM in the main thread. In other threads, handlers cannot be set."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signals.handle) for number in numbers]
    try:
        yield signals
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
