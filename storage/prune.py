"""Giving back space: attempts that never counted, and parts of sealed epochs that nobody needs any more.

Pruning what is committed leaves a marker that says what was there, so that an audit says pruned and not broken.
"""

from dataclasses import replace

from storage import layout
from storage.commits import Commit
from storage.documents import now
from storage.epoch import Epoch
from storage.errors import MissingDataError, StorageError

__all__ = ["abandoned", "prune"]


def prune(epoch: Epoch, name: str, path: str, reason: str, by: str) -> Commit:
    """Remove a part of a sealed epoch's output, e.g. the latents of a shard.

    Args:
        epoch: A sealed epoch.
        name: The commit's name.
        path: A file or folder in it, e.g. ``traj.zarr``.
        reason: Why; kept in the marker.
        by: Who wanted it; kept in the marker.

    Returns:
        The commit that counts now. Doing it again changes nothing.

    Raises:
        StorageError: The epoch is not sealed.
        MissingDataError: There is no such commit, or no such path in it.
    """
    if epoch.seal() is None:
        raise StorageError(f"{epoch} is not sealed; its data are still needed", "d3po run CONFIG")
    current = epoch.latest(name)
    if current is None:
        raise MissingDataError(f"{epoch} has no commit {name}", epoch.heal_command)
    gone = {file: entry for file, entry in current.files.items() if file == path or file.startswith(f"{path}/")}
    if not gone and not any(file == path or file.startswith(f"{path}/") for file in current.pruned):
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
    epoch.run.backend.remove(f"{epoch.key}/{current.folder}/{path}")
    return epoch.read_commit(name, current.number + bool(gone))


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
