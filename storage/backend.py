"""Where a run's files lie: a folder on a disk, or a prefix of an S3 bucket. A few verbs on keys, and no meaning.

``create`` is what everything rests on: of all who create one key, exactly one succeeds, and nobody ever sees a part of
it. It is idempotent: creating what is there already, byte for byte, succeeds (a lost answer to a PUT that arrived).
"""

import os
from pathlib import Path
from typing import Protocol

from storage.errors import StorageError

__all__ = ["Backend", "open_backend"]


class Backend(Protocol):
    """A place for files. Keys are relative, with ``/``."""

    location: str
    """How an operator writes it: a path or ``s3://bucket/prefix``."""

    def probe(self) -> None:
        """Make sure that creation is exclusive here, before anything rests on it.

        Raises:
            StorageError: It is not, or the place cannot be written to.
        """

    def get(self, key: str) -> bytes:
        """The file's bytes.

        Raises:
            MissingDataError: There is none.
        """

    def size(self, key: str) -> int:
        """The file's bytes, counted.

        Raises:
            MissingDataError: There is none.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a file, whole or not at all."""

    def create(self, key: str, data: bytes) -> None:
        """Write a file that must not be there yet, whole or not at all.

        Raises:
            CommitConflictError: It is there already and holds something else.
        """

    def keys(self, prefix: str) -> list[str]:
        """The keys of all files below a folder, sorted; none if there is no such folder."""

    def children(self, prefix: str) -> list[str]:
        """The names of what lies directly in a folder, sorted; folders without any file do not count."""

    def move_in(self, folder: Path, prefix: str) -> None:
        """Bring a local folder's files in, durably. On the same disk this takes the folder away; S3 leaves it.

        Raises:
            CommitConflictError: There is such a folder already (on a disk; on S3 names are not looked up).
        """

    def remove(self, prefix: str) -> None:
        """Remove a file, or a folder with all that is in it. For what no marker names."""

    def local_path(self, key: str) -> Path | None:
        """The file itself, where it lies on a disk; None on S3."""


def open_backend(location: str | os.PathLike[str]) -> Backend:
    """The backend of a location; does no I/O.

    Args:
        location: A local path, or ``s3://bucket/prefix`` (endpoint and credentials from the ``AWS_*`` environment).

    Raises:
        StorageError: It is a URL of another kind.
    """
    text = os.fspath(location)
    if text.startswith("s3://"):
        from storage.s3 import S3Backend  # obstore is only loaded where it is used

        return S3Backend(text)
    if "://" in text:
        raise StorageError(
            f"A run lies in a local folder or at s3://bucket/prefix; got {text!r}",
            "change storage.root in the configuration",
        )
    from storage.disk import DiskBackend

    return DiskBackend(Path(text))
