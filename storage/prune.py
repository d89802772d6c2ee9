"""Giving back space: attempts that never counted or no longer do, and what nobody needs any more of sealed epochs.

Pruning what is committed leaves a marker that says what was there, so that an audit says pruned and not broken.
"""

from contextlib import suppress
from dataclasses import replace

from storage import layout
from storage.commits import Commit
from storage.documents import now
from storage.epoch import Epoch
from storage.errors import MissingDataError, StorageError

__all__ = ["abandoned", "checkpoints", "prune"]


def prune(epoch: Epoch, name: str, path: str | None, reason: str, by: str) -> Commit:
    """Remove a part of a sealed epoch's output, e.g. the latents of a shard, or a checkpoint that nobody resumes from.

    Args:
        epoch: A sealed epoch; for a checkpoint of a replaced training attempt, any.
        name: The commit's name.
        path: A file or folder in it, e.g. ``traj.zarr``; None for all of it.
        reason: Why; kept in the marker.
        by: Who wanted it; kept in the marker.

    Returns:
        The commit that counts now. Doing it again changes nothing.

    Raises:
        StorageError: The epoch is not sealed.
        MissingDataError: There is no such commit, or no such path in it.
    """
    if epoch.seal() is None and not _replaced(name, epoch.latest("train-plan")):
        raise StorageError(f"{epoch} is not sealed; its data are still needed", "d3po run CONFIG")
    current = epoch.latest(name)
    if current is None:
        raise MissingDataError(f"{epoch} has no commit {name}", epoch.heal_command)
    gone = {file: entry for file, entry in current.files.items() if _within(file, path)}
    if not gone and not any(_within(file, path) for file in current.pruned):
        raise MissingDataError(f"{name} in {epoch} has no {path}; it has {sorted(current.files)[:8]}")
    if gone:
        tombstone = replace(
            current,
            number=current.number + 1,
            previous=current.digest,
            files={file: entry for file, entry in current.files.items() if file not in gone},
            pruned={**current.pruned, **gone},
            details={**current.details, "prune_reason": reason, "pruned_by": by},
            time=now(),
            replaces_lost=False,
        )
        epoch.run.backend.create(layout.commit_key(epoch.number, name, tombstone.number), tombstone.write())
    folder = f"{epoch.key}/{current.folder}"
    epoch.run.backend.remove(folder if path is None else f"{folder}/{path}")
    return epoch.read_commit(name, current.number + bool(gone))


def checkpoints(epoch: Epoch, replaced: bool = False) -> list[Commit]:
    """The checkpoints that no training will resume from: of replaced attempts, and of a sealed epoch all.

    Each has a name of its own, so that none is ever superseded; and no seal speaks of any.

    Args:
        epoch: Whose.
        replaced: Only those of training attempts that a later one replaced.
    """
    current, every = epoch.latest("train-plan"), epoch.seal() is not None and not replaced
    found = []
    for name, numbers in epoch.commit_numbers().items():
        if layout.is_checkpoint(name) and (every or _replaced(name, current)):
            with suppress(StorageError):  # a damaged marker hinders nobody: a training passes it over, too
                found.append(epoch.read_commit(name, numbers[-1]))
    return [commit for commit in found if commit.files]


def abandoned(epoch: Epoch, superseded: bool = False) -> list[str]:
    """The keys of files that no commit counts on.

    Args:
        epoch: An epoch that nobody works on: an attempt about to be committed looks abandoned for a moment.
        superseded: Also the files of commits that a later one of their name replaced.

    Raises:
        CorruptDataError: A marker that counts cannot be read, so that nobody knows what it names.
    """
    kept: set[str] = set()
    dropped: set[str] = set()
    for name, numbers in epoch.commit_numbers().items():
        for number in numbers:
            try:
                commit = epoch.read_commit(name, number)
            except StorageError:
                if number == numbers[-1]:
                    raise
                continue
            if number == numbers[-1] or not superseded:
                kept.update(f"{epoch.key}/{commit.folder}/{file}" for file in commit.files)
            if number == numbers[-1]:
                dropped.update(f"{epoch.key}/{commit.folder}/{file}" for file in commit.pruned)
    found = (key for key in epoch.run.backend.keys(epoch.key) if layout.is_attempt_file(key[len(epoch.key) + 1 :]))
    return [key for key in found if key not in kept or key in dropped]


def _replaced(name: str, current: Commit | None) -> bool:
    """Whether a commit is a checkpoint of another training attempt than the epoch's current one."""
    training = layout.training_of_checkpoint(name)
    return training is not None and current is not None and training != current.attempt


def _within(file: str, path: str | None) -> bool:
    return path is None or file == path or file.startswith(f"{path}/")
