"""A run: its folder, its frozen description, its epochs, and which flow run works on which of them."""

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from storage import layout, locks, staging
from storage.backend import Backend, open_backend
from storage.documents import decode, encode, now
from storage.epoch import Epoch
from storage.errors import CommitConflictError, MissingDataError
from storage.events import append_event, read_events
from storage.files import VerifiedFiles

__all__ = ["RUN_FORMAT", "Run"]

RUN_FORMAT = "d3po-run/1"
_REQUESTS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class Run:
    """One fine-tuning effort. Made by ``Run.create``, found again by ``Run.open``.

    Attributes:
        root: The folder or S3 prefix that holds the runs.
        name: The run's folder in it.
        info: What run.json says: ``run_id`` (random, 12 hexadecimal digits), ``created`` and what ``create`` was given.
        location: The run's path or URL.
        backend: Its files, by key.
        home: Its folder on this machine: the run itself on a disk, its cache on S3.
        files: Access to committed files, verified.
    """

    def __init__(self, root: str, name: str, info: Mapping[str, Any], backend: Backend) -> None:
        self.root = root
        self.name = name
        self.info = dict(info)
        self.backend = backend
        self.location = backend.location
        on_disk = backend.local_path(layout.RUN_FILE)
        self.home = on_disk.parent if on_disk else _cache(self.info["run_id"], name)
        self.files = VerifiedFiles(backend, self.home)

    @classmethod
    def create(cls, root: str | os.PathLike[str], name: str, info: Mapping[str, Any]) -> "Run":
        """Make a run's folder, with its run.json, written once.

        Args:
            root: A local folder or ``s3://bucket/prefix``.
            name: The run's name in it.
            info: What run.json is to say, e.g. ``configuration`` and ``model_digest``.

        Raises:
            CommitConflictError: There is a run of that name.
            StorageError: It cannot be written there, or creation is not exclusive there.
            ValueError: The name cannot be a folder's.
        """
        location = layout.run_location(os.fspath(root), name)
        backend = open_backend(location)
        body = {**info, "run_id": secrets.token_hex(6), "created": now()}
        data = encode(body, RUN_FORMAT)
        backend.probe()
        try:
            backend.create(layout.RUN_FILE, data)
        except CommitConflictError:
            raise CommitConflictError(
                f"There is a run {name!r} at {location} already", f"d3po status {location}, or choose another name"
            ) from None
        return cls(os.fspath(root), name, decode(data, RUN_FORMAT, layout.RUN_FILE, ""), backend)

    @classmethod
    def open(cls, root: str | os.PathLike[str], name: str) -> "Run":
        """A run that exists.

        Raises:
            MissingDataError: There is none of that name.
            CorruptDataError: Its run.json is not what was written.
            UnknownFormatError: Another version of the programme wrote it.
        """
        location = layout.run_location(os.fspath(root), name)
        backend = open_backend(location)
        try:
            data = backend.get(layout.RUN_FILE)
        except MissingDataError:
            raise MissingDataError(
                f"There is no run {name!r}: expected {location}/{layout.RUN_FILE}", "d3po init"
            ) from None
        remedy = f"restore {location}/{layout.RUN_FILE} from a backup, then d3po audit {location}"
        return cls(os.fspath(root), name, decode(data, RUN_FORMAT, f"{location}/{layout.RUN_FILE}", remedy), backend)

    @staticmethod
    def exists(root: str | os.PathLike[str], name: str) -> bool:
        """Whether there is a run of that name; says nothing of its health."""
        try:
            open_backend(layout.run_location(os.fspath(root), name)).get(layout.RUN_FILE)
        except MissingDataError:
            return False
        return True

    @property
    def run_id(self) -> str:
        """12 hexadecimal digits, other for every run ever made, also for one made again under the same name."""
        return str(self.info["run_id"])

    def epochs(self) -> list[int]:
        """The numbers of the epochs that were begun (they have a file), rising."""
        numbers = (layout.parse_epoch(name) for name in self.backend.children("epochs"))
        return sorted(number for number in numbers if number is not None)

    def sealed_epochs(self) -> list[int]:
        """The numbers of the sealed epochs, rising."""
        return [number for number in self.epochs() if self.epoch(number).seal() is not None]

    def next_epoch(self) -> int:
        """The lowest epoch that is not sealed; else the one after the last. A fork's first is its parent's number."""
        numbers = self.epochs()
        return next((n for n in numbers if self.epoch(n).seal() is None), numbers[-1] + 1 if numbers else 0)

    def epoch(self, number: int) -> Epoch:
        """An epoch, begun or not. Does no I/O."""
        return Epoch(self, number)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """A function's results over items, in their order; on S3 several at a time, as each mostly waits."""
        if self.backend.local_path(layout.RUN_FILE) is not None:
            return [function(item) for item in items]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(function, items))

    def write_report(self, file: str, data: bytes) -> None:
        """Write or replace a file of the run's own report, which is derived and outside every digest."""
        self.backend.put(layout.report_key(file), data)

    def read_report(self, file: str) -> bytes | None:
        """The bytes of such a file; None where there is none."""
        try:
            return self.backend.get(layout.report_key(file))
        except MissingDataError:
            return None

    def scratch(self) -> Path:
        """A local folder of this process for what does not count yet; on the run's own disk where it has one."""
        return staging.process_folder(self.home)

    def sweep(self) -> list[Path]:
        """Remove from this machine what killed processes left in the run's staging folder; returns what is gone."""
        return staging.sweep(self.home)

    @property
    def has_lock(self) -> bool:
        """Whether ``lock`` keeps others out: on a disk, not on S3."""
        return self.backend.local_path(layout.RUN_FILE) is not None

    def lock(self, purpose: str) -> AbstractContextManager[None]:
        """Work alone on a purpose, e.g. ``epoch-0003``, while the ``with`` block lasts. On S3 this does nothing.

        Raises:
            LockedError: On entering: another process holds it; the message names it.
        """
        if self.backend.local_path(layout.RUN_FILE) is None:
            return nullcontext()
        path = self.home / layout.LOCKS_FOLDER / f"{layout.check_commit_name(purpose)}.lock"
        remedy = f"d3po status {self.location} shows what it does; kill PID ends it and frees the lock"
        return locks.hold(path, f"{purpose} of run {self.name}", remedy)

    def lock_epoch(self, number: int) -> AbstractContextManager[None]:
        """Work alone on an epoch; raises as ``lock`` does."""
        return self.lock(f"epoch-{number:04d}")

    def bind(self, flow_run_id: str, epoch: int, *, moves_on: bool = False) -> None:
        """Write down that a flow run works on an epoch, once and for ever. Doing it again changes nothing.

        Args:
            flow_run_id: Prefect's id of the flow run.
            epoch: The epoch's number.
            moves_on: It may have been bound to an earlier epoch: an experiment's goes from one to the next.

        Raises:
            CommitConflictError: It is bound to another epoch.
        """
        bound = self.binding(flow_run_id)
        if bound is None or (moves_on and bound < epoch):
            append_event(self, epoch, "bindings", {"flow_run_id": flow_run_id, "epoch": epoch})
        elif bound != epoch:
            raise CommitConflictError(
                f"Flow run {flow_run_id} of run {self.name} is bound to epoch {bound}; expected {epoch}",
                "start a new flow run: d3po run CONFIG",
            )

    def binding(self, flow_run_id: str) -> int | None:
        """The epoch that a flow run is bound to; None where it is bound to none."""
        for number in reversed(self.epochs()):
            if any(binding["flow_run_id"] == flow_run_id for binding in self.bindings(number)):
                return number
        return None

    def bindings(self, epoch: int) -> list[dict[str, Any]]:
        """An epoch's bindings, newest last: ``flow_run_id``, ``epoch``, ``time``, ``number`` and the details given."""
        return read_events(self, epoch, "bindings")


def _cache(run_id: str, name: str) -> Path:
    """Where files of a run on S3 are kept on this machine; by id, as a run made again is another run."""
    base = os.environ.get("D3PO_CACHE") or "~/.cache/d3po"
    return Path(base).expanduser().absolute() / run_id / name
