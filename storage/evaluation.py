"""An evaluation's folder beside the runs: settings written once, parts that are whole or not there, derived files.

A part (one candidate's images, one objective's values) is files and then a marker with the sha256 of each; a part whose
files are not what its marker says is not there, and is made again. Nothing in it is dear: all of it can be computed again.
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from storage import layout
from storage.backend import open_backend
from storage.documents import decode, encode, sha256
from storage.errors import CommitConflictError, CorruptDataError, MissingDataError

__all__ = ["EVALUATION_FORMAT", "Evaluation", "Part", "PartInTheMaking", "evaluations_below"]

EVALUATION_FORMAT = "d3po-evaluation-settings/1"
PART_FORMAT = "d3po-evaluation-part/1"
BLIND_FORMAT = "d3po-blind-plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that was computed and is whole."""

    name: str
    folder: str
    files: Mapping[str, str]
    """Path within the folder → sha256."""
    details: Mapping[str, Any]


@dataclass(slots=True)
class PartInTheMaking:
    """Files that count for nothing until ``Evaluation.finish``."""

    name: str
    folder: str
    files: dict[str, str] = field(default_factory=dict)


class Evaluation:
    """``<root>/evaluations/<name>``, on a disk or on S3.

    Attributes:
        root: The folder or S3 prefix that holds runs and evaluations.
        name: The folder's name.
        location: Its path or URL.
    """

    def __init__(self, root: str, name: str) -> None:
        self.root = root
        self.name = name
        self._backend = open_backend(layout.evaluation_location(root, name))
        self.location = self._backend.location

    def settings(self) -> dict[str, Any] | None:
        """What was settled when it was begun; None while nothing was."""
        return self._document(layout.EVALUATION_FILE, EVALUATION_FORMAT)

    def settle(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Write the settings once; where there are some already, those hold.

        Returns:
            What holds, with ``id``: 12 hexadecimal digits, other for every evaluation ever made.
        """
        body = {**settings, "id": secrets.token_hex(6)}
        with suppress(CommitConflictError):
            self._backend.create(layout.EVALUATION_FILE, encode(body, EVALUATION_FORMAT))
        settled = self.settings()
        assert settled is not None
        return settled

    # ---- parts ----------------------------------------------------------------------------------------------------

    def begin(self, name: str) -> PartInTheMaking:
        """A new attempt at a part."""
        folder = f"parts/{layout.check_run_name(name)}-{secrets.token_hex(4)}"
        return PartInTheMaking(name=name, folder=folder)

    def add(self, part: PartInTheMaking, path: str, data: bytes) -> None:
        """One file of a part."""
        self._backend.put(f"{part.folder}/{layout.check_relative(path)}", data)
        part.files[path] = sha256(data)

    def finish(self, part: PartInTheMaking, details: Mapping[str, Any] | None = None) -> Part:
        """Make a part exist; an earlier one of its name gives way."""
        before = self._marker(part.name)
        finished = Part(name=part.name, folder=part.folder, files=dict(part.files), details=dict(details or {}))
        body = {field: getattr(finished, field) for field in Part.__slots__}
        self._backend.put(f"parts/{part.name}.json", encode(body, PART_FORMAT))
        if before is not None:
            self._backend.remove(before.folder)
        return finished

    def part(self, name: str) -> Part | None:
        """A part whose files are all what was written; None where there is none, or one is missing or damaged."""
        part = self._marker(name)
        if part is None:
            return None
        try:
            for path in part.files:
                self.read_part(part, path)
        except (MissingDataError, CorruptDataError):
            return None
        return part

    def read_part(self, part: Part, path: str) -> bytes:
        """One file of a part, verified.

        Raises:
            CorruptDataError: It is not what was written.
            MissingDataError: It is gone.
        """
        data = self._backend.get(f"{part.folder}/{path}")
        if sha256(data) != part.files[path]:
            raise CorruptDataError(
                f"{self.location}/{part.folder}/{path} was changed: expected sha256 {part.files[path]}, found "
                f"{sha256(data)}",
                "d3po evaluate makes it again",
            )
        return data

    # ---- blind comparisons ----------------------------------------------------------------------------------------

    def blind_plan(self, number: int) -> dict[str, Any] | None:
        """The plan of a blind comparison; None where there is none of that number."""
        return self._document(layout.blind_key(number, "plan.json"), BLIND_FORMAT)

    def create_blind_plan(self, number: int, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Write such a plan once, before anything is shown; where another process was faster, its plan holds."""
        with suppress(CommitConflictError):
            self._backend.create(layout.blind_key(number, "plan.json"), encode(plan, BLIND_FORMAT))
        written = self.blind_plan(number)
        assert written is not None
        return written

    # ---- what is derived ------------------------------------------------------------------------------------------

    def write(self, key: str, data: bytes) -> None:
        """Write or replace a derived file: results, sheets, pages, and below ``blind/`` what people are shown and said."""
        self._backend.put(layout.check_relative(key), data)

    def read(self, key: str) -> bytes | None:
        """Such a file's bytes; None where there is none."""
        try:
            return self._backend.get(layout.check_relative(key))
        except MissingDataError:
            return None

    def _marker(self, name: str) -> Part | None:
        try:
            body = self._document(f"parts/{layout.check_run_name(name)}.json", PART_FORMAT)
        except CorruptDataError:
            return None
        return None if body is None else Part(**{key: body[key] for key in Part.__slots__})

    def _document(self, key: str, document_format: str) -> dict[str, Any] | None:
        data = self.read(key)
        if data is None:
            return None
        where = f"{self.location}/{key}"
        body = decode(data, document_format, where, f"restore {where} from a backup, or evaluate under another --name")
        body.pop("format")
        return body


def evaluations_below(root: str) -> list[Evaluation]:
    """The evaluations beside the runs of a folder or S3 prefix, by name."""
    names = open_backend(f"{root.rstrip('/')}/{layout.EVALUATIONS_FOLDER}").children("")
    found = []
    for name in sorted(names):
        with suppress(ValueError):  # something else, which nobody here named
            found.append(Evaluation(root, name))
    return found
