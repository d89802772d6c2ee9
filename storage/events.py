"""Numbered files of an epoch that are only ever added: bindings, decisions to proceed, notices, and the like."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from storage import layout
from storage.documents import decode, encode, now
from storage.errors import CommitConflictError

if TYPE_CHECKING:
    from storage.run import Run

__all__ = ["EVENT_FORMAT", "append_event", "event_keys", "read_events"]

EVENT_FORMAT = "d3po-event/1"


def append_event(run: "Run", epoch: int, kind: str, body: Mapping[str, Any]) -> None:
    """Write the next numbered file. Of several processes at once each gets a number of its own.

    Args:
        run: The run.
        epoch: The epoch's number.
        kind: One of ``layout.EVENT_KINDS``.
        body: What it says; ``number``, ``time`` and ``id`` are added.
    """
    number = 1 + max((layout.parse_event_key(key) or 0 for key in event_keys(run, epoch, kind)), default=0)
    while True:
        # The id makes every body different, so that creating is never taken for an answer that was lost.
        data = encode({**body, "number": number, "time": now(), "id": uuid4().hex}, EVENT_FORMAT)
        try:
            return run.backend.create(layout.event_key(epoch, kind, number), data)
        except CommitConflictError:
            number += 1


def read_events(run: "Run", epoch: int, kind: str) -> list[dict[str, Any]]:
    """What the numbered files say, in their order.

    Raises:
        CorruptDataError: One is not what was written.
    """
    remedy = f"restore it from a backup, then d3po audit {run.location}"
    return [
        decode(run.backend.get(key), EVENT_FORMAT, f"{run.location}/{key}", remedy)
        for key in event_keys(run, epoch, kind)
    ]


def event_keys(run: "Run", epoch: int, kind: str) -> list[str]:
    """The keys of the numbered files, in their order."""
    keys = run.backend.keys(layout.events_prefix(epoch, kind))
    numbered = [(number, key) for key in keys if (number := layout.parse_event_key(key)) is not None]
    return [key for _, key in sorted(numbered)]
