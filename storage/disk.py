"""The backend on a disk: temporary files, fsync, hard links and renames.

A file becomes visible by ``os.link`` or ``os.replace`` of a finished and synced temporary file on the same disk, so a
kill at any moment leaves it whole or absent. Temporary files lie in the staging folder, which no listing shows.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from storage.errors import CommitConflictError, MissingDataError, StorageError
from storage.layout import STAGING_FOLDER, check_relative

__all__ = ["DiskBackend", "make_folder", "remove_tree", "sync_folder", "sync_tree"]

_SYNCS = 8


class DiskBackend:
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.location = str(self.folder)

    def probe(self) -> None:
        key = f"probe-{secrets.token_hex(8)}"
        self.create(key, b"hard links work here")
        self.remove(key)

    def get(self, key: str) -> bytes:
        path = self.local_path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingDataError(f"There is no file {path}") from None

    def size(self, key: str) -> int:
        path = self.local_path(key)
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise MissingDataError(f"There is no file {path}") from None

    def put(self, key: str, data: bytes) -> None:
        path = self.local_path(key)
        with _speaking_errors(path), self._temporary(data) as temporary:
            make_folder(path.parent)
            os.replace(temporary, path)
            sync_folder(path.parent)

    def create(self, key: str, data: bytes) -> None:
        path = self.local_path(key)
        with _speaking_errors(path), self._temporary(data) as temporary:
            make_folder(path.parent)
            try:
                os.link(temporary, path)
            except FileExistsError:
                if path.read_bytes() != data:
                    raise CommitConflictError(f"{path} exists already, with other content") from None
            sync_folder(path.parent)

    def keys(self, prefix: str) -> list[str]:
        top = self.local_path(prefix) if prefix else self.folder
        keys = []
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            within = folder.removeprefix(self.location).lstrip("/")
            keys += [f"{within}/{name}" if within else name for name in files]
        return sorted(keys)

    def children(self, prefix: str) -> list[str]:
        top = self.local_path(prefix) if prefix else self.folder
        try:
            entries = list(os.scandir(top))
        except (FileNotFoundError, NotADirectoryError):
            return []
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        return sorted(entry.name for entry in shown if entry.is_file() or _holds_files(Path(entry.path)))

    def move_in(self, folder: Path, prefix: str) -> None:
        target = self.local_path(prefix)
        with _speaking_errors(target):
            sync_tree(folder)
            make_folder(target.parent)
            try:
                os.rename(folder, target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                raise CommitConflictError(f"{target} exists already") from None
            sync_folder(target.parent)

    def remove(self, prefix: str) -> None:
        path = self.local_path(prefix)
        if path.is_dir():
            # Renamed first, so that a kill halfway never leaves half a folder under a name that looks whole.
            doomed = self._staging() / f"removed-{secrets.token_hex(8)}"
            os.rename(path, doomed)
            sync_folder(path.parent)
            remove_tree(doomed)
        else:
            path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def local_path(self, key: str) -> Path:
        return self.folder / check_relative(key)

    def _remove_empty(self, folder: Path) -> None:
        """Remove folders that became empty, up to the epoch's own, which others may be about to write to."""
        while len(folder.relative_to(self.folder).parts) > 3:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _staging(self) -> Path:
        staging = self.folder / STAGING_FOLDER
        make_folder(staging)
        return staging

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        """A synced file with these bytes on the run's disk, removed afterwards under its temporary name."""
        path = self._staging() / f"file-{secrets.token_hex(8)}"
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they survive a power cut."""
    missing = []
    at = folder
    while not at.is_dir():
        missing.append(at)
        at = at.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the kernel write a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have the kernel write all files and folders below a folder, and itself, to the disk.

    Several at a time: the file system then shares one journal commit among them (64 images: 20 ms and not 260).
    """
    walked = list(os.walk(folder, topdown=False))
    with ThreadPoolExecutor(_SYNCS) as pool:
        list(pool.map(_sync_file, [os.path.join(at, name) for at, _, files in walked for name in files]))
    for at, _, _ in walked:
        sync_folder(Path(at))


def _sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there; another process may be at it too."""
    shutil.rmtree(folder, ignore_errors=True)


def _holds_files(folder: Path) -> bool:
    return any(files for _, _, files in os.walk(folder))


@contextmanager
def _speaking_errors(path: Path) -> Iterator[None]:
    """Say what a failed write means to an operator; a storage error passes as it is."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        remedies = {
            errno.ENOSPC: "free space on that disk; d3po run then goes on from what is committed",
            errno.EDQUOT: "raise the quota or free space; d3po run then goes on from what is committed",
            errno.EACCES: "give this user write permission there, then d3po run",
            errno.EROFS: "remount it writable or change storage.root, then d3po run",
            errno.EPERM: "put storage.root on a file system with hard links (most network mounts of buckets have none)",
            errno.EOPNOTSUPP: "put storage.root on a file system with hard links, or use s3:// directly",
        }
        remedy = remedies.get(error.errno or 0, "see the system's log for that disk, then d3po run")
        raise StorageError(f"Could not write {path}: {error.strerror or error}", remedy) from error
