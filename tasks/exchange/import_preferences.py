"""Judged image pairs from elsewhere as an epoch of a run: images without trajectories (T = 0), and their judgements.

x_0 is the VAE's own encoding of the image, cropped around its middle and resized to the model's size. There is no noise
address, so nothing of it can be made again: the file's digest is in the plan. Objectives that add their own noise train
on it; everything after the judgements (training, seal, audit) is as of any epoch.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d3po_core.policy import Policy
from d3po_core.records import Group, Judgement, Trajectories
from storage.files import digest_file
from storage.layout import shard_name
from tasks.config import Configuration
from tasks.context import EpochContext, create_run
from tasks.errors import UserError
from tasks.exchange.pickapic import ImportedRow, check_columns, fitted, read_images, read_rows
from tasks.generation.generate import write_prompt_embeds
from tasks.generation.plan import PLAN_FORMAT, adapter_in, chunks, frozen_fields
from tasks.generation.shards import commit_shard, to_arrays
from tasks.labels.pull import write_judgements
from tasks.log import logger
from tasks.policies import policy_for

__all__ = ["Imported", "import_preferences"]

SET_ASIDE_FORMAT = "d3po-set-aside/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of a file."""

    epoch: int
    rows: int
    groups: int
    """Pairs of different images."""
    judgements: int
    set_aside: Mapping[str, int]
    """Reason → rows, most first."""
    width: int
    """Of the images as they are kept, pixels."""
    height: int


@dataclass(slots=True, kw_only=True)
class _Read:
    """A file's rows, sorted into what they are about."""

    groups: dict[str, ImportedRow]
    """Group id → the first row of its two images."""
    judgements: list[Judgement]
    set_aside: list[dict[str, Any]]


def import_preferences(configuration: Configuration, file: Path) -> Imported:
    """Make the run's next epoch of a Pick-a-Pic-style file; done again, it goes on where it ended.

    Args:
        configuration: The run's; it is made where it is missing.
        file: Parquet with ``caption, jpg_0, jpg_1, label_0, label_1``, and ``user_id, created_at, has_label`` where known.

    Raises:
        UserError: No such columns, no usable row, groups of another size than 2, or the epoch was planned otherwise.
    """
    if configuration.sampling.group_size != 2:
        raise UserError(
            f"sampling.group_size is {configuration.sampling.group_size}, expected 2: imported images come in pairs",
            remedy="--sampling.group_size 2",
        )
    rows, digest = check_columns(file), digest_file(file)
    policy = policy_for(configuration)
    read = _sorted_in(read_rows(file, _caption_check(policy, configuration)))
    if not read.groups:
        raise UserError(
            f"none of the {rows} rows of {file} can be used; the first: {read.set_aside[0]['reason'] if rows else 'none'}",
            remedy="see docs/evaluation.md for what a row has to hold",
        )
    run = create_run(configuration)
    number = run.next_epoch()
    context = EpochContext(configuration=configuration, run=run, number=number)
    with run.lock_epoch(number):
        _plan(context, read, {"file": file.name, "sha256": digest, "rows": rows, "set_aside": len(read.set_aside)})
        if context.epoch.latest("prompts") is None:
            write_prompt_embeds(context)
        _commit_shards(context, policy, file, read.groups)
        _commit_judgements(context, read)
    height, width = _size(policy)
    reasons = Counter(item["reason"] for item in read.set_aside)
    return Imported(
        epoch=number,
        rows=rows,
        groups=len(read.groups),
        judgements=len(read.judgements),
        set_aside=dict(reasons.most_common()),
        width=width,
        height=height,
    )


def _caption_check(policy: Policy, configuration: Configuration) -> Callable[[str], str | None]:
    """What is wrong with a caption for this model, if anything."""
    limit = policy.parts.max_prompt_tokens

    def problem(caption: str) -> str | None:
        if configuration.sampling.long_prompts == "truncate" or policy.parts.prompt_tokens(caption) <= limit:
            return None
        return f"the caption has more than the {limit} tokens that the text encoder takes (sampling.long_prompts: truncate)"

    return problem


def _sorted_in(rows: Iterable[ImportedRow | tuple[int, str]]) -> _Read:
    """Rows of the same caption and images, whichever stands first, become judgements of one group."""
    read = _Read(groups={}, judgements=[], set_aside=[])
    known: dict[tuple[str, frozenset[str]], str] = {}
    for row in rows:
        if isinstance(row, tuple):
            read.set_aside.append({"id": f"row:{row[0]}", "reason": row[1], "group": None})
            continue
        id = known.setdefault((row.caption, frozenset(row.digests)), f"g{len(known):06d}")
        first = read.groups.setdefault(id, row)
        labels = row.labels if row.digests == first.digests else row.labels[::-1]
        read.judgements.append(
            Judgement(
                id=f"row:{row.index}",
                group_id=id,
                judge=row.judge,
                verdict="tie" if labels[0] == labels[1] else "prefer",
                trajectory_ids=(f"{id}-0", f"{id}-1"),
                levels=((labels[0],), (labels[1],)),
                updated_at=row.judged_at,
            )
        )
    return read


def _plan(context: EpochContext, read: _Read, imported: dict[str, Any]) -> None:
    """The epoch's plan: the groups as they first appear, and the file that they come from.

    Raises:
        UserError: The epoch has another plan.
    """
    existing = context.epoch.plan()
    if existing is not None:
        if existing.get("imported", {}).get("sha256") != imported["sha256"]:
            raise UserError(
                f"epoch {context.number} of {context.run.location} was planned otherwise and is not sealed",
                remedy=f"d3po status {context.run.location}; import into another run with --run NAME",
            )
        return
    configuration = context.configuration
    batches = chunks(list(read.groups), configuration.sampling.groups_per_batch)
    per_shard = max(1, configuration.orchestration.groups_per_shard // configuration.sampling.groups_per_batch)
    context.epoch.create_plan(
        {
            "format": PLAN_FORMAT,
            "epoch": context.number,
            "run_id": context.run.info["run_id"],
            "frozen": frozen_fields(context),
            "adapter_in": adapter_in(context.run, context.number),
            "groups": [
                {"id": id, "index": index, "prompt": row.caption} for index, (id, row) in enumerate(read.groups.items())
            ],
            "shards": {shard_name(index): shard for index, shard in enumerate(chunks(batches, per_shard))},
            "imported": imported,
        }
    )


def _commit_shards(context: EpochContext, policy: Policy, file: Path, groups: Mapping[str, ImportedRow]) -> None:
    """Encode and store what is not there yet; the file is read once, and a shard's images are held at a time."""
    missing = {
        name: [group for batch in batches for group in batch]
        for name, batches in context.plan["shards"].items()
        if context.epoch.latest(name) is None
    }
    shard_of = {groups[id].index: (name, id) for name, ids in missing.items() for id in ids}
    height, width = _size(policy)
    waiting: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = defaultdict(dict)
    for index, (first, second) in read_images(file, shard_of) if shard_of else ():
        name, id = shard_of[index]
        waiting[name][id] = (fitted(first, width, height), fitted(second, width, height))
        if len(waiting[name]) == len(missing[name]):
            pairs = _encoded(context, policy, waiting.pop(name))
            commit_shard(context, name, to_arrays(pairs, 2 * len(missing[name]), seeds={}))
            logger().info("%s: %d image pairs imported", name, len(missing[name]))


def _encoded(
    context: EpochContext, policy: Policy, images: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Iterator[Trajectories]:
    """Each pair as trajectories without a transition."""
    groups: Mapping[str, Group] = context.groups()
    for id, pair in images.items():
        pixels = np.stack(pair)
        yield Trajectories(
            ids=groups[id].trajectory_ids(2),
            group_ids=(id, id),
            prompts=(groups[id].prompt,) * 2,
            latents=policy.encode_images(pixels).unsqueeze(1),
            log_prob=torch.zeros(2, 0, dtype=torch.float64),
            timesteps=torch.zeros(0, dtype=torch.int64),
            trainable=torch.zeros(0, dtype=torch.bool),
            images=pixels,
        )


def _commit_judgements(context: EpochContext, read: _Read) -> None:
    if context.epoch.latest("pull") is not None:
        return
    attempt = context.epoch.begin("pull")
    write_judgements(attempt.path, read.judgements)
    body = {"format": SET_ASIDE_FORMAT, "annotations": read.set_aside}
    (attempt.path / "set-aside.json").write_text(json.dumps(body, indent=1))
    details = {"judgements": len(read.judgements), "source": "imported", "set_aside": len(read.set_aside)}
    context.epoch.commit(attempt, details)


def _size(policy: Policy) -> tuple[int, int]:
    """(height, width) in pixels of the model's images."""
    _, rows, columns = policy.latent_shape
    return rows * (policy.image_size // columns), policy.image_size
