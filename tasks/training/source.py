"""The store as the training loop's source of trajectories."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import torch

from d3po_core.records import Trajectories
from storage.commits import Commit
from storage.embeddings import StoredPrompts
from storage.layout import GROUPS_FILE, TRAJECTORIES_FILE
from storage.trajectories import StoredShard, TrajectoryArrays
from tasks.context import EpochContext

__all__ = ["StoredTrajectories"]

OPEN_SHARDS = 1024
"""Whose tables and open arrays are kept, ten to thirty kilobytes each: opening a shard takes as long as reading its rows
in several steps."""

KEPT_EMBEDS = 16 << 20
"""Bytes of prompt embeddings that are kept: prompts return from group to group."""


class StoredTrajectories:
    """Reads whole groups of one epoch, verified; implements ``TrajectorySource``."""

    def __init__(self, context: EpochContext) -> None:
        self._epoch = context.epoch
        self._commits = context.epoch.commit_numbers()
        self._shard_of = {
            group: name for name, batches in context.plan["shards"].items() for batch in batches for group in batch
        }
        self._group_size = context.configuration.sampling.group_size
        self._groups = context.groups()
        self._shard = lru_cache(OPEN_SHARDS)(self._opened)

    def read(self, group_ids: Sequence[str]) -> Trajectories:
        """The trajectories of these groups, in the order asked, without images."""
        by_shard: OrderedDict[str, list[str]] = OrderedDict()
        for group_id in group_ids:
            by_shard.setdefault(self._shard_of[group_id], []).extend(
                self._groups[group_id].trajectory_ids(self._group_size)
            )
        parts = [self._shard(name).read(ids) for name, ids in by_shard.items()]
        together = _joined(parts)
        order = [id for group_id in group_ids for id in self._groups[group_id].trajectory_ids(self._group_size)]
        place = {id: row for row, id in enumerate(together.ids)}
        return together.select([place[id] for id in order])

    def prompt_embeds(self, prompts: Sequence[str]) -> torch.Tensor:
        """[len(prompts), L, D] float32."""
        return torch.stack([self._embeds_of(prompt) for prompt in prompts])

    @cached_property
    def _embeds_of(self) -> Callable[[str], torch.Tensor]:
        """A prompt's embedding, [L, D] float32, read when it is first asked for."""
        stored = StoredPrompts(self._epoch.fetch(self._commit("prompts")))

        def read(prompt: str) -> torch.Tensor:
            return torch.from_numpy(stored.read([prompt])[prompt])

        return lru_cache(max(1, KEPT_EMBEDS // stored.bytes_each))(read)

    def _opened(self, name: str) -> StoredShard:
        """A shard with what training needs of it verified: its pictures need not be read."""
        commit = self._commit(name)
        self._epoch.fetch(commit, GROUPS_FILE)
        return StoredShard(self._epoch.fetch(commit, TRAJECTORIES_FILE).parent)

    def _commit(self, name: str) -> Commit:
        """The one that counted when this began: listing a large epoch's commits at every step takes longer than reading."""
        return self._epoch.read_commit(name, self._commits.get(name, [1])[-1])


def _joined(parts: Sequence[TrajectoryArrays]) -> Trajectories:
    latents = [torch.from_numpy(part.latents) for part in parts]
    if parts[0].latents_dtype == "bfloat16":
        latents = [part.view(torch.bfloat16) for part in latents]
    return Trajectories(
        ids=tuple(id for part in parts for id in part.ids),
        group_ids=tuple(id for part in parts for id in part.group_ids),
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        latents=torch.cat(latents),
        log_prob=torch.cat([torch.from_numpy(part.log_prob) for part in parts]),
        timesteps=torch.from_numpy(parts[0].timesteps),
        trainable=torch.from_numpy(parts[0].trainable),
    )
