"""Files with their digests: taken when they are committed, checked when they are first used.

A file that was verified in this process is not read again as long as its size, its inode and its times are the same.
On S3 files come through a cache folder, under their keys; what is in the cache is verified in the same way.
"""

import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TypedDict

from storage.backend import Backend
from storage.disk import make_folder
from storage.documents import sha256
from storage.errors import CorruptDataError, MissingDataError

__all__ = ["FileEntry", "VerifiedFiles", "digest_file", "digest_files"]


class FileEntry(TypedDict):
    """What a marker says of one file."""

    sha256: str
    bytes: int


_verified: set[bytes] = set()
"""Of each verified file a digest of its path, its content's digest and its signature: an epoch has many images."""


def digest_file(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(folder: Path) -> dict[str, FileEntry]:
    """Digest and size of every file below a folder, by relative path in sorted order.

    Raises:
        ValueError: There is something that is neither a file nor a folder: a link would be a reference out of the run.
    """
    entries: dict[str, FileEntry] = {}
    for at, folders, files in os.walk(folder):
        for path in (os.path.join(at, name) for name in (*folders, *files)):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                entries[os.path.relpath(path, folder)] = FileEntry(sha256=digest_file(path), bytes=status.st_size)
            elif not stat.S_ISDIR(status.st_mode):
                raise ValueError(f"An attempt holds files and folders only; {path} is neither")
    return dict(sorted(entries.items()))


class VerifiedFiles:
    """Access to committed files that never hands out one that is not what was committed.

    Args:
        backend: Where the run's files lie.
        home: The run's folder on this machine: on a disk the run itself, on S3 its cache.
    """

    def __init__(self, backend: Backend, home: Path) -> None:
        self._backend = backend
        self._home = home

    def path(self, key: str, entry: FileEntry, what: str, remedy: str) -> Path:
        """The local path of a file, verified.

        Args:
            key: The file's key.
            entry: What its marker says of it.
            what: How messages name the commit and its file.
            remedy: What an operator does about a broken one.

        Raises:
            MissingDataError: It is not there.
            CorruptDataError: It is there and has another digest.
        """
        path = self._backend.local_path(key)
        if path is None:
            return self._cached(key, entry, what, remedy)
        found = _look(path, entry)
        if found is None:
            raise _missing(what, entry, str(path), remedy)
        if found != entry["sha256"]:
            raise _corrupt(what, entry, found, path.stat().st_size, remedy)
        return path

    def check(self, key: str, entry: FileEntry, what: str, remedy: str) -> None:
        """Read a file again where it really lies, past every cache, and compare; raises as ``path`` does."""
        path = self._backend.local_path(key)
        try:
            data = self._backend.get(key) if path is None else None
            found = digest_file(path) if path is not None else sha256(data or b"")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(what, entry, f"{self._backend.location}/{key}", remedy) from None
        if found != entry["sha256"]:
            size = path.stat().st_size if path is not None else len(data or b"")
            raise _corrupt(what, entry, found, size, remedy)

    def adopt(self, folder: Path, prefix: str) -> None:
        """Keep an uploaded folder as the cache's copy, so that this machine need not download it again."""
        target = self._home / prefix
        make_folder(target.parent)
        if not target.exists():
            os.rename(folder, target)

    def _cached(self, key: str, entry: FileEntry, what: str, remedy: str) -> Path:
        path = self._home / key
        if _look(path, entry) == entry["sha256"]:
            return path
        try:
            data = self._backend.get(key)
        except MissingDataError:
            raise _missing(what, entry, f"{self._backend.location}/{key}", remedy) from None
        if sha256(data) != entry["sha256"]:
            raise _corrupt(what, entry, sha256(data), len(data), remedy)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        temporary.write_bytes(data)
        os.replace(temporary, path)
        _verified.add(_seen(path, entry["sha256"]))
        return path


def _look(path: Path, entry: FileEntry) -> str | None:
    """The digest that a file has now, read from it unless it was verified before; None if there is no such file."""
    try:
        seen = _seen(path, entry["sha256"])
        if seen in _verified:
            return entry["sha256"]
        digest = digest_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    if digest == entry["sha256"]:
        _verified.add(seen)
    return digest


def _seen(path: Path, digest: str) -> bytes:
    """A file with this content, as the file system describes it now, in 16 bytes."""
    status = os.stat(path)
    described = (os.fspath(path), digest, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b(repr(described).encode(), digest_size=16).digest()


def _missing(what: str, entry: FileEntry, where: str, remedy: str) -> MissingDataError:
    return MissingDataError(
        f"{what} is missing: expected {entry['bytes']} bytes with sha256 {entry['sha256']}, found nothing at {where}",
        remedy,
    )


def _corrupt(what: str, entry: FileEntry, digest: str, size: int, remedy: str) -> CorruptDataError:
    return CorruptDataError(
        f"{what} is corrupt: expected sha256 {entry['sha256']} ({entry['bytes']} bytes), found {digest} ({size} bytes)",
        remedy,
    )
