"""A lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metarl_agents.run.directory import LOCK, RunError

#: A look at the lock holds it for an instant, so one that wants to keep it tries for this long.
PATIENCE = 2.0


@contextmanager
def exclusive(path: Path, note: str = "") -> Iterator[bool]:
    """Holds the lock while the block runs; gives False if another process holds it.

    `lockf` also works between the machines of a cluster with a common file system.

    Args:
        path: the file of the lock.
        note: what the file says as long as the lock is held.

    Raises:
        RunError: when the path is a link, a directory or anything else that is not a file.
    """
    descriptor = _opened(path, os.O_CREAT)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (held := _try(descriptor)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if held and note:
            # By this descriptor, because the system releases the lock when any other one is closed.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note.encode(), 0)
        yield held
    finally:
        os.close(descriptor)


@contextmanager
def held_run(folder: Path) -> Iterator[None]:
    """Holds a run's directory while the block runs, so that no other process continues the same run.

    The file says who holds it. The system releases the lock when the process ends, so the file of a process
    that was killed is taken over. Between machines, the lock is as good as `lockf` on the file system that
    they share; NFS and Lustre support it.

    Raises:
        RunError: when another process holds it, with what that process wrote.
    """
    path = folder / LOCK
    note = json.dumps({"process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T %z")})
    with exclusive(path, note + "\n") as held:
        if not held:
            raise RunError(f"{folder} is in use by {_holder(path)}; wait for it or stop it")
        yield


def _holder(path: Path) -> str:
    """Who holds a run, as far as its lock says so."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def is_held(path: Path) -> bool:
    """Whether another process holds the lock."""
    if not path.exists():
        return False
    descriptor = _opened(path)
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path, flags: int = 0) -> int:
    """A descriptor of the lock, which is never a link: what it led to would be overwritten."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o666)
    except OSError as error:
        raise RunError(f"{path} cannot be a lock: {error.strerror}; remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RunError(f"{path} cannot be a lock, it is not a file; remove it")
    return descriptor


def _try(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
