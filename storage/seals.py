"""What an epoch computed, said once: the ``content`` of its seal, from the contents of its commits.

It depends on numbers alone: not on attempts, times or paths, not on which trajectories shared a shard, not on how many
checkpoints were kept on the way.
"""

from collections.abc import Mapping
from typing import Any

from storage import layout
from storage.commits import Commit
from storage.digests import merge_digests

__all__ = ["epoch_content"]


def epoch_content(commits: Mapping[str, Commit], parent: str | None) -> dict[str, Any]:
    """The content of an epoch.

    Args:
        commits: The commits that count, by name.
        parent: The digest of the parent epoch's content; None for a first epoch.

    Returns:
        ``parent``; under ``shards`` one digest per kind of content, over all trajectories whatever their shard; under
        ``outputs`` the content of each other commit that has one. Checkpoints are left out: ``train`` came of them.
    """
    merged: dict[str, dict[str, str]] = {}
    outputs: dict[str, Any] = {}
    for name, commit in commits.items():
        if name.startswith("shard-"):
            for kind, digests in commit.content.items():
                merged.setdefault(kind, {}).update(digests)
        elif commit.content and not layout.is_checkpoint(name):
            outputs[name] = commit.content
    shards = {kind: {"count": len(digests), "sha256": merge_digests(digests)} for kind, digests in merged.items()}
    return {"parent": parent, "shards": shards, "outputs": outputs}
