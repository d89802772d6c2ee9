"""Bringing committed outputs into another run, whole and verified, without a reference to where they came from."""

import os
import shutil
from pathlib import Path

from storage.commits import Commit
from storage.epoch import Epoch
from storage.errors import MissingDataError

__all__ = ["copy_commit", "refuse_pruned"]


def copy_commit(source: Epoch, name: str, target: Epoch, as_name: str | None = None) -> Commit:
    """Commit in one epoch what is committed in another, by hard links where the disk allows.

    Args:
        source: Where it is; its files are verified first.
        name: The commit's name.
        target: Where it is to be; what is committed there under that name stays.
        as_name: Its name there; by default the same.

    Returns:
        The target's commit: the same content and details, and under ``copied_from`` whose it was.

    Raises:
        StorageError: It is not there, or not what was committed.
    """
    original = source.latest(name)
    if original is None:
        raise MissingDataError(f"{source} has no commit {name}", f"d3po status {source.run.location}")
    refuse_pruned(source, original)
    attempt = target.begin(as_name or name)
    if original.files:
        folder = source.fetch(original)
        for file in original.files:
            _link_or_copy(folder / file, attempt.path / file)
    origin = {"run": source.run.name, "run_id": source.run.run_id, "epoch": source.number, "digest": original.digest}
    return target.commit(attempt, {**original.details, "copied_from": origin}, original.content)


def refuse_pruned(source: Epoch, commit: Commit) -> None:
    """Look, before anything is made, whether all of a commit can be copied.

    Raises:
        MissingDataError: Files of it were pruned; the message says when, by whom and why.
    """
    if commit.pruned:
        raise MissingDataError(
            f"{commit.name} of {source} cannot be copied: {len(commit.pruned)} of its files were pruned {commit.pruning}",
            f"restore them from a backup; d3po audit {source.run.location} shows all that was pruned",
        )


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)
