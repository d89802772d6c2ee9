"""Giving back a run's space, as an operator asks for it: listed with sizes first, removed with a tombstone.

Latents are most of what an epoch takes, and nothing needs them once it is sealed but to train on it once more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from storage import prune as stored
from storage.epoch import Epoch
from storage.layout import TRAJECTORIES_FILE
from storage.run import Run
from tasks.errors import UserError

__all__ = ["Prunable", "Selection", "prunable", "prune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is to go."""

    latents: bool = False
    """The trajectories of sealed epochs."""
    abandoned: bool = False
    """Files that no marker names: attempts that were killed or lost a race."""
    superseded: bool = False
    """These, and the files of commits that a later one replaced."""

    def __post_init__(self) -> None:
        if not (self.latents or self.abandoned or self.superseded):
            raise UserError(
                "nothing was named to be pruned",
                remedy="d3po prune RUN --latents, --abandoned or --superseded; without --yes it only lists",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """Something of an epoch that can go."""

    epoch: int
    what: str
    """As an operator reads it."""
    commit: str | None
    """Whose latents; None for files that no marker counts on."""
    files: tuple[str, ...]
    """Their keys within the run."""
    bytes: int


def prunable(run: Run, numbers: Sequence[int], selection: Selection) -> list[Prunable]:
    """What there is of it, with sizes; nothing is touched.

    Args:
        run: The run.
        numbers: The epochs to look at; the latents of those that are not sealed are still needed.
        selection: What is meant.
    """
    return [item for number in numbers for item in _of_epoch(run.epoch(number), selection)]


def prune(run: Run, numbers: Sequence[int], selection: Selection, *, reason: str, by: str) -> Iterator[Prunable]:
    """Remove it, epoch by epoch, each under its lock; yields what is gone.

    Args:
        run: The run.
        numbers: The epochs.
        selection: What is meant.
        reason: Why, for the tombstones.
        by: Who says so, for the tombstones.

    Raises:
        LockedError: A process works on one of the epochs.
    """
    for number in numbers:
        with run.lock_epoch(number):
            for item in _of_epoch(run.epoch(number), selection):
                _remove(run, item, reason, by)
                yield item


def _remove(run: Run, item: Prunable, reason: str, by: str) -> None:
    if item.commit is not None:
        stored.prune(run.epoch(item.epoch), item.commit, TRAJECTORIES_FILE, reason, by)
        return
    for key in item.files:
        run.backend.remove(key)


def _of_epoch(epoch: Epoch, selection: Selection) -> Iterator[Prunable]:
    sealed = epoch.seal() is not None
    if selection.latents and sealed:
        yield from _latents(epoch)
    # On S3 no lock tells whether somebody is about to commit what no marker names yet.
    if (selection.abandoned or selection.superseded) and (sealed or epoch.run.has_lock):
        keys = stored.abandoned(epoch, superseded=selection.superseded)
        if keys:
            size = sum(epoch.run.each(epoch.run.backend.size, keys))
            what = "superseded and abandoned files" if selection.superseded else "abandoned files"
            yield Prunable(epoch=epoch.number, what=what, commit=None, files=tuple(keys), bytes=size)


def _latents(epoch: Epoch) -> Iterator[Prunable]:
    for name, commit in epoch.latest_all().items():
        files = {file: entry for file, entry in commit.files.items() if file.startswith(f"{TRAJECTORIES_FILE}/")}
        if name.startswith("shard-") and files:
            yield Prunable(
                epoch=epoch.number,
                what=f"latents of {name}",
                commit=name,
                files=tuple(f"{epoch.key}/{commit.folder}/{file}" for file in files),
                bytes=sum(entry["bytes"] for entry in files.values()),
            )
