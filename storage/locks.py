"""Locks that the kernel frees when their holder dies, however it dies (flock). Correctness never rests on them.

A forked child closes what it inherited, so that a holder's death frees its lock even where its children live on.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.disk import make_folder
from storage.documents import now
from storage.errors import LockedError

__all__ = ["acquire", "hold", "is_free", "release"]

_held: set[int] = set()
"""Descriptors of the locks of this process."""


def acquire(path: Path) -> int:
    """Take a lock without waiting.

    Args:
        path: The lock's file; it is never removed, only unlocked.

    Returns:
        A descriptor for ``release``.

    Raises:
        LockedError: Someone has it; the message says who.
    """
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 4096, 0)
        os.close(descriptor)
        raise LockedError(
            f"{path} is held by {_describe(holder)}", "wait for it to end, or stop it: kill PID"
        ) from None
    os.ftruncate(descriptor, 0)
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
    os.pwrite(descriptor, json.dumps(note).encode(), 0)
    _held.add(descriptor)
    return descriptor


def release(descriptor: int) -> None:
    """Give a lock back; in a forked child, which never held it, this does nothing."""
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


@contextmanager
def hold(path: Path, purpose: str, remedy: str) -> Iterator[None]:
    """Hold a lock for the length of a ``with`` block.

    Raises:
        LockedError: Someone else holds it; the message names the purpose, the holder and the remedy.
    """
    try:
        descriptor = acquire(path)
    except LockedError as error:
        raise LockedError(f"The lock for {purpose}: {error.message}", remedy) from None
    try:
        yield
    finally:
        release(descriptor)


def is_free(path: Path) -> bool:
    """Whether nobody holds a lock; a lock whose file is gone is free."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _describe(note: bytes) -> str:
    try:
        holder = json.loads(note)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process (it has not written its number yet)"


def _close_inherited() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)
