"""Where attempts are built before they count: one folder per process, with a lock that says whether it still lives.

Nothing in a staging folder counts. What a killed process left is removed by ``sweep``, which can tell it from the work
of living processes by their locks, on this machine and on a shared disk that has flock.
"""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from storage import locks
from storage.disk import remove_tree
from storage.errors import LockedError
from storage.layout import STAGING_FOLDER

__all__ = ["process_folder", "sweep"]

_OWNER = "owner.lock"
_UNOWNED_SECONDS = 3600
"""Temporary files have no owner's lock; they live for milliseconds."""
_folders: dict[tuple[int, Path], Path] = {}
"""This process's folder in each run's home; keyed by process, as a forked child needs its own."""


def process_folder(home: Path) -> Path:
    """This process's own staging folder.

    Args:
        home: The run's folder on this machine; the staging folder is on the same disk.
    """
    known = _folders.get((os.getpid(), home))
    while known is None or not known.is_dir():
        known = home / STAGING_FOLDER / f"process-{secrets.token_hex(4)}"
        with suppress(LockedError):  # a sweep met it before it was locked and takes it away: make another
            locks.acquire(known / _OWNER)  # held until this process ends
        _folders[os.getpid(), home] = known
    return known


def sweep(home: Path) -> list[Path]:
    """Remove what processes that no longer live left in a run's staging folder.

    Returns:
        The folders and files that are gone.
    """
    staging = home / STAGING_FOLDER
    doomed = [path for path in sorted(staging.iterdir()) if _abandoned(path)] if staging.is_dir() else []
    for path in doomed:
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
    return doomed


def _abandoned(path: Path) -> bool:
    """Whether nobody will come back for it: its process is dead, or, where that is not known, it is an hour old."""
    owner = path / _OWNER
    if not owner.exists():
        with suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime > _UNOWNED_SECONDS
        return False
    return locks.is_free(owner)
