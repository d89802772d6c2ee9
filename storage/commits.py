"""The markers: small files whose existence makes an output exist. What each says, and how they are found.

A marker names an attempt and the sha256 of each of its files. The highest number of a name counts; it names the digest
of its predecessor, so that a chain cannot lose a link unnoticed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage import layout
from storage.documents import decode, encode, sha256
from storage.files import FileEntry

__all__ = ["COMMIT_FORMAT", "Attempt", "Commit", "numbers_by_name"]

COMMIT_FORMAT = "d3po-commit/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Files in the making. They count for nothing until they are committed."""

    id: str
    """8 random hexadecimal digits."""
    name: str
    """What the commit will be called."""
    folder: str
    """Where the files will lie within the epoch."""
    path: Path
    """The local folder to write them to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """An output that exists: what its marker says."""

    name: str
    number: int
    """1 for the first of its name; the highest counts."""
    attempt: str
    folder: str
    """Where its files lie within the epoch."""
    files: Mapping[str, FileEntry]
    """sha256 and size of each file, by path within the folder."""
    details: Mapping[str, Any]
    """What whoever committed it wanted to say; may name times, people, attempts."""
    content: Mapping[str, Any]
    """Digests of what was computed; equal for two runs that computed the same."""
    previous: str | None
    """The digest of the predecessor's marker; None for the first."""
    digest: str
    """sha256 of the marker's bytes."""
    time: str
    """When it was made, ISO 8601 in UTC."""
    pruned: Mapping[str, FileEntry] = field(default_factory=dict)
    """Files that were removed on request, as they were."""
    replaces_lost: bool = False
    """It was made to heal the loss of its predecessor's marker: that one is gone, or no longer what was sealed."""

    @property
    def pruning(self) -> str:
        """Of a commit with pruned files: when they were, by whom and why."""
        by, reason = self.details.get("pruned_by", "somebody"), self.details.get("prune_reason", "no reason is given")
        return f"on {self.time} by {by}: {reason}"

    @classmethod
    def read(cls, data: bytes, what: str, remedy: str) -> "Commit":
        """The commit that a marker's bytes describe.

        Raises:
            CorruptDataError: They are not what was written.
            UnknownFormatError: Another version of the programme wrote them.
        """
        body = decode(data, COMMIT_FORMAT, what, remedy)
        body.pop("format")
        return cls(**body, digest=sha256(data))

    def write(self) -> bytes:
        """The marker's bytes, whose digest is not this object's."""
        names = [name for name in self.__slots__ if name != "digest"]
        return encode({name: getattr(self, name) for name in names}, COMMIT_FORMAT)


def numbers_by_name(keys: Iterable[str]) -> dict[str, list[int]]:
    """The numbers that each name has a marker of, rising; other files are passed over."""
    numbers: dict[str, list[int]] = {}
    for key in keys:
        if parsed := layout.parse_commit_key(key):
            numbers.setdefault(parsed[0], []).append(parsed[1])
    return {name: sorted(numbers[name]) for name in sorted(numbers)}
