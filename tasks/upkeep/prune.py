"""Giving back a run's space, as an operator asks for it: listed with sizes first, removed with a tombstone.

Latents are most of what an epoch takes, and nothing needs them once it is sealed but to train on it once more. A
checkpoint is needed for as long as its training may be resumed.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from storage import prune as stored
from storage.commits import Commit
from storage.epoch import Epoch
from storage.layout import TRAJECTORIES_FILE, training_of_checkpoint
from storage.run import Run
from tasks.errors import UserError

__all__ = ["Prunable", "Selection", "prunable", "prune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is to go."""

    latents: bool = False
    """The trajectories of sealed epochs."""
    checkpoints: bool = False
    """Those of sealed epochs, and of training attempts that were replaced."""
    abandoned: bool = False
    """Files that no marker names: attempts that were killed or lost a race."""
    superseded: bool = False
    """These, and the files of commits and of training attempts that a later one replaced."""

    def __post_init__(self) -> None:
        if not (self.latents or self.checkpoints or self.abandoned or self.superseded):
            raise UserError(
                "nothing was named to be pruned",
                remedy="d3po prune RUN --latents, --checkpoints, --abandoned or --superseded; without --yes it only lists",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """Something of an epoch that can go."""

    epoch: int
    what: str
    """As an operator reads it."""
    files: tuple[str, ...]
    """Their keys within the run."""
    bytes: int
    commits: tuple[str, ...] = ()
    """Whose files they are, each of which gets a tombstone; none for files that no marker counts on."""
    path: str | None = None
    """What of these commits; None for all of them."""


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
    for name in item.commits:
        stored.prune(run.epoch(item.epoch), name, item.path, reason, by)
    if not item.commits:
        for key in item.files:
            run.backend.remove(key)


def _of_epoch(epoch: Epoch, selection: Selection) -> Iterator[Prunable]:
    sealed = epoch.seal() is not None
    if selection.latents and sealed:
        yield from _latents(epoch)
    # On S3 no lock tells whether somebody is about to commit what no marker names yet, or still trains.
    if not sealed and not epoch.run.has_lock:
        return
    if selection.checkpoints or selection.superseded:
        yield from _checkpoints(epoch, replaced=not selection.checkpoints)
    if selection.abandoned or selection.superseded:
        keys = stored.abandoned(epoch, superseded=selection.superseded)
        if keys:
            size = sum(epoch.run.each(epoch.run.backend.size, keys))
            what = "superseded and abandoned files" if selection.superseded else "abandoned files"
            yield Prunable(epoch=epoch.number, what=what, files=tuple(keys), bytes=size)


def _latents(epoch: Epoch) -> Iterator[Prunable]:
    for name, commit in epoch.latest_all().items():
        files = [file for file in commit.files if file.startswith(f"{TRAJECTORIES_FILE}/")]
        if name.startswith("shard-") and files:
            yield _of_commits(epoch, f"latents of {name}", [(commit, files)], TRAJECTORIES_FILE)


def _checkpoints(epoch: Epoch, replaced: bool) -> Iterator[Prunable]:
    by_training: defaultdict[str, list[Commit]] = defaultdict(list)
    for commit in stored.checkpoints(epoch, replaced):
        by_training[training_of_checkpoint(commit.name) or ""].append(commit)
    for training, commits in by_training.items():
        what = f"{len(commits)} checkpoints of training {training}"
        yield _of_commits(epoch, what, [(commit, commit.files) for commit in commits], None)


def _of_commits(epoch: Epoch, what: str, of: Sequence[tuple[Commit, Iterable[str]]], path: str | None) -> Prunable:
    """These files of these commits, in one line."""
    named = [(commit, file) for commit, files in of for file in files]
    return Prunable(
        epoch=epoch.number,
        what=what,
        files=tuple(f"{epoch.key}/{commit.folder}/{file}" for commit, file in named),
        bytes=sum(commit.files[file]["bytes"] for commit, file in named),
        commits=tuple(commit.name for commit, _ in of),
        path=path,
    )
