"""An epoch of a run: its plan, its attempts and commits, its notes and its seal.

The protocol: every attempt is built in a folder of its own, hashed, moved in, and only then named by a marker that is
created exclusively. What no marker names does not exist; no file that a marker names is ever edited.
"""

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import layout
from storage.commits import Attempt, Commit, numbers_by_name
from storage.disk import remove_tree
from storage.documents import decode, encode, now, sha256
from storage.errors import CommitConflictError, CorruptDataError, MissingDataError
from storage.events import append_event, read_events
from storage.files import FileEntry, digest_files

if TYPE_CHECKING:
    from storage.run import Run

__all__ = ["PLAN_FORMAT", "SEAL_FORMAT", "Epoch"]

PLAN_FORMAT = "d3po-plan/1"
SEAL_FORMAT = "d3po-seal/1"


class Epoch:
    """One epoch; ``Run.epoch`` makes it without I/O.

    Attributes:
        run: The run it belongs to.
        number: 0 or more.
        key: Its folder's key within the run.
    """

    def __init__(self, run: "Run", number: int) -> None:
        self.run = run
        self.number = number
        self.key = layout.epoch_key(number)
        self._markers: dict[str, bytes] = {}

    # ---- plan and seal: written once ------------------------------------------------------------------------------

    def plan(self) -> dict[str, Any] | None:
        """What plan.json says; None while there is none.

        Raises:
            CorruptDataError: It is not what was written.
        """
        return self._record(layout.PLAN, PLAN_FORMAT)

    def create_plan(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Write plan.json once. Where another process was faster, its plan is the plan.

        Returns:
            The plan that holds, as JSON gives it back.
        """
        with suppress(CommitConflictError):
            self.run.backend.create(f"{self.key}/{layout.PLAN}", encode(plan, PLAN_FORMAT))
        return self._required(layout.PLAN, PLAN_FORMAT)

    def seal(self) -> dict[str, Any] | None:
        """What EPOCH.json says; None while the epoch is open.

        Raises:
            CorruptDataError: It is not what was written.
        """
        return self._record(layout.SEAL, SEAL_FORMAT)

    def create_seal(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write EPOCH.json once; ``manifest.build_seal`` makes its body. Where there is one of equal content, it holds.

        Raises:
            CommitConflictError: The epoch is sealed with other content.
        """
        with suppress(CommitConflictError):
            self.run.backend.create(f"{self.key}/{layout.SEAL}", encode(body, SEAL_FORMAT))
        seal = self._required(layout.SEAL, SEAL_FORMAT)
        if seal["digest"] != body["digest"]:
            raise CommitConflictError(
                f"{self} is sealed with content {seal['digest']}; expected {body['digest']}",
                f"d3po audit {self.run.location}",
            )
        return seal

    # ---- attempts and commits -------------------------------------------------------------------------------------

    def begin(self, name: str, folder: str | None = None) -> Attempt:
        """A new attempt at an output: an empty local folder to write to.

        Args:
            name: The commit's name, e.g. ``shard-000017``.
            folder: Where its files are to lie within the epoch, without the attempt's id, which is appended
                (``training/ab12cd34/final``); by default the place that belongs to the name.
        """
        layout.check_commit_name(name)
        attempt = secrets.token_hex(4)
        path = self.run.scratch() / f"{name}-{attempt}"
        path.mkdir()
        return Attempt(id=attempt, name=name, folder=layout.output_folder(name, attempt, folder), path=path)

    def discard(self, attempt: Attempt) -> None:
        """Remove an attempt that is not to be committed."""
        remove_tree(attempt.path)

    def commit(
        self,
        attempt: Attempt,
        details: Mapping[str, Any] | None = None,
        content: Mapping[str, Any] | None = None,
        supersede: bool = False,
    ) -> Commit:
        """Make an attempt's files exist. Of several at once one is committed, and all get that one.

        Args:
            attempt: From ``begin``, with its files written and closed.
            details: What else the marker is to say, as JSON.
            content: Digests of what was computed, free of attempts, times and paths.
            supersede: Replace what is committed under that name, whatever state it is in.

        Returns:
            What is committed: this attempt, or another that was there first.

        Raises:
            CorruptDataError: There is a marker already, it is broken, and it was not to be superseded.
            ValueError: The attempt holds a link, or ``details`` or ``content`` are not JSON.
        """
        # One listing decides both whether to commit and under which number: with two, a marker that appears between
        # them would be superseded by someone who never meant to.
        top = max(self.commit_numbers().get(attempt.name, [0]))
        if top and not supersede:
            self.discard(attempt)
            return self.read_commit(attempt.name, top)
        number, previous, replaces_lost = self._predecessor(attempt.name, top)
        commit = Commit(
            name=attempt.name,
            number=number,
            attempt=attempt.id,
            folder=attempt.folder,
            files=digest_files(attempt.path),
            details=details or {},
            content=content or {},
            previous=previous,
            digest="",
            time=now(),
            replaces_lost=replaces_lost,
        )
        marker = commit.write()
        prefix = f"{self.key}/{attempt.folder}"
        if commit.files:
            self.run.backend.move_in(attempt.path, prefix)
        try:
            self.run.backend.create(layout.commit_key(self.number, attempt.name, number), marker)
        except CommitConflictError:
            self.run.backend.remove(prefix)
            self.discard(attempt)
            return self._winner(attempt.name)
        if commit.files and attempt.path.is_dir():
            self.run.files.adopt(attempt.path, prefix)
        self.discard(attempt)
        return self.read_commit(attempt.name, number)

    def latest(self, name: str) -> Commit | None:
        """The commit that counts; None where nothing of that name is committed.

        Raises:
            CorruptDataError: Its marker is not what was written.
        """
        numbers = self.commit_numbers().get(layout.check_commit_name(name))
        return self.read_commit(name, numbers[-1]) if numbers else None

    def latest_all(self, names: Iterable[str] | None = None) -> dict[str, Commit]:
        """The commits that count, by name; of these names, or of all.

        Raises:
            CorruptDataError: A marker is not what was written.
        """
        numbers = self.commit_numbers()
        wanted = list(numbers if names is None else names)
        commits = self.run.each(lambda name: self.read_commit(name, numbers[name][-1]), wanted)
        return dict(zip(wanted, commits, strict=True))

    def history(self, name: str) -> list[Commit]:
        """All commits of a name, in their order.

        Raises:
            MissingDataError: A predecessor is gone.
            CorruptDataError: A marker is not what was written, or not the one that its successor names.
        """
        commits: list[Commit] = []
        for number in range(1, max(self.commit_numbers().get(name, [0])) + 1):
            commit = self.read_commit(name, number)
            if commits and commit.previous != commits[-1].digest:
                raise CorruptDataError(
                    f"Marker {number - 1} of {name} in {self} is not the one that marker {number} superseded: "
                    f"expected sha256 {commit.previous}, found {commits[-1].digest}",
                    f"d3po audit {self.run.location}",
                )
            commits.append(commit)
        return commits

    def commit_numbers(self) -> dict[str, list[int]]:
        """The numbers that each name has a marker of, rising. One listing."""
        return numbers_by_name(self.run.backend.keys(layout.commits_prefix(self.number)))

    def read_commit(self, name: str, number: int) -> Commit:
        """One commit; markers never change, so each is read once.

        Raises:
            MissingDataError: There is no such marker.
            CorruptDataError: It is not what was written.
        """
        key = layout.commit_key(self.number, name, number)
        what, remedy = f"Marker {number} of {name} in {self} ({self.run.location}/{key})", self.heal_command
        try:
            data = self._markers.get(key) or self.run.backend.get(key)
        except MissingDataError:
            raise MissingDataError(f"{what} is missing", remedy) from None
        commit = Commit.read(data, what, remedy)
        if (commit.name, commit.number) != (name, number):
            raise CorruptDataError(f"{what} is that of {commit.name}, number {commit.number}", remedy)
        self._markers[key] = data  # a third of what the object takes: a shard's marker names each image several times
        return commit

    def fetch(self, commit: Commit, path: str | None = None) -> Path:
        """The local path of committed files, verified on their first use in this process.

        Args:
            commit: Whose files.
            path: A file or a folder within it, e.g. ``traj.zarr``; all of it by default.

        Raises:
            MissingDataError: A file is gone, was pruned, or was never in the commit.
            CorruptDataError: A file is not what was committed.
        """
        wanted = [name for name in commit.files if path is None or name == path or name.startswith(f"{path}/")]
        if not wanted:
            raise self._nothing_there(commit, path)
        self.run.each(lambda name: self._verified(commit, name), wanted)
        folder = self.run.home / self.key / commit.folder
        return folder / path if path is not None else folder

    # ---- what is added and what lies aside ------------------------------------------------------------------------

    def note(self, kind: str, body: Mapping[str, Any]) -> None:
        """Add a numbered file of a kind, e.g. ``proceed``."""
        append_event(self.run, self.number, kind, body)

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """What the numbered files of a kind say, in their order; ``number``, ``time`` and ``id`` are in each."""
        return read_events(self.run, self.number, kind)

    def write_aside(self, key: str, data: bytes) -> None:
        """Write or replace a derived or erasable file, outside every digest.

        Args:
            key: ``labels/people.parquet``, or a path below ``report/`` or ``adapter/``.
            data: Its bytes.
        """
        self.run.backend.put(f"{self.key}/{layout.check_aside_key(key)}", data)

    def read_aside(self, key: str) -> bytes | None:
        """The bytes of such a file; None where there is none."""
        try:
            return self.run.backend.get(f"{self.key}/{layout.check_aside_key(key)}")
        except MissingDataError:
            return None

    def erase_aside(self, key: str) -> None:
        """Erase such a file, e.g. the people's names."""
        self.run.backend.remove(f"{self.key}/{layout.check_aside_key(key)}")

    # ---- inside ---------------------------------------------------------------------------------------------------

    @property
    def heal_command(self) -> str:
        """What an operator types to have this epoch's broken data made again."""
        return layout.heal_command(self.run.location, self.number)

    def describe(self, commit: Commit, file: str) -> str:
        """How messages name a file of a commit."""
        return f"{commit.folder}/{file} ({commit.name}, commit {commit.number}, {self})"

    def __str__(self) -> str:
        return f"epoch {self.number} of run {self.run.name}"

    def _record(self, file: str, document_format: str) -> dict[str, Any] | None:
        key = f"{self.key}/{file}"
        try:
            data = self.run.backend.get(key)
        except MissingDataError:
            return None
        where = f"{self.run.location}/{key}"
        return decode(
            data, document_format, where, f"restore {where} from a backup, then d3po audit {self.run.location}"
        )

    def _required(self, file: str, document_format: str) -> dict[str, Any]:
        record = self._record(file, document_format)
        if record is None:
            raise MissingDataError(f"{self.run.location}/{self.key}/{file} vanished", f"d3po audit {self.run.location}")
        return record

    def _predecessor(self, name: str, top: int) -> tuple[int, str | None, bool]:
        """Number, predecessor's digest, and whether that predecessor is lost, for the next commit of a name.

        A sealed epoch remembers its markers: one that was deleted or broken since is superseded by its digest there.
        """
        found = sha256(self.run.backend.get(layout.commit_key(self.number, name, top))) if top else None
        sealed = (self.seal() or {}).get("record", {}).get("commits", {}).get(name, {"number": 0})
        if sealed["number"] > top or (sealed["number"] == top > 0 and sealed["digest"] != found):
            return sealed["number"] + 1, sealed["digest"], True
        return top + 1, found, False

    def _winner(self, name: str) -> Commit:
        commit = self.latest(name)
        if commit is None:
            raise MissingDataError(f"The marker of {name} in {self} vanished", self.heal_command)
        return commit

    def _verified(self, commit: Commit, name: str) -> Path:
        entry: FileEntry = commit.files[name]
        return self.run.files.path(
            f"{self.key}/{commit.folder}/{name}", entry, self.describe(commit, name), self.heal_command
        )

    def _nothing_there(self, commit: Commit, path: str | None) -> MissingDataError:
        shown = f"{commit.folder}/{path}" if path is not None else commit.folder
        if any(path is None or name == path or name.startswith(f"{path}/") for name in commit.pruned):
            return MissingDataError(
                f"{shown} ({commit.name}, {self}) was pruned {commit.pruning}",
                f"restore it from a backup if it is needed again; d3po audit {self.run.location} shows all that was pruned",
            )
        return MissingDataError(
            f"{commit.name} in {self} has no file {shown}; it has {sorted(commit.files)[:8]}", self.heal_command
        )
