"""The plan of an epoch: its groups, generation batches and shards, fixed before anything is computed.

The plan decides every random number's address and every batch's shape, so whatever is generated from it, in however
many attempts, is the same.
"""

from collections.abc import Sequence
from typing import Any

from storage.errors import ConfigurationChangedError
from storage.layout import shard_name
from storage.run import Run
from tasks.config_changes import changed_fields
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.generation.prompts import epoch_prompts, read_prompts

__all__ = ["PLAN_FORMAT", "adapter_in", "chunks", "frozen_fields", "make_plan", "prompts_used"]

PLAN_FORMAT = "d3po-plan/1"


def make_plan(context: EpochContext) -> dict[str, Any]:
    """The epoch's plan: the committed one where there is one, else a new one, committed.

    Raises:
        ConfigurationChangedError: The epoch was planned with other sampling or labels fields.
        UserError: Prompts that cannot be used.
    """
    existing = context.epoch.plan()
    if existing is not None:
        _refuse_changes(context, existing)
        return existing
    configuration = context.configuration
    prompts = epoch_prompts(
        read_prompts(configuration.prompts.file),
        seed=configuration.seed,
        used=prompts_used(context.run, context.number),
        count=configuration.prompts.groups_per_epoch,
    )
    groups = [{"id": f"g{index:06d}", "index": index, "prompt": prompt} for index, prompt in enumerate(prompts)]
    batches = chunks([group["id"] for group in groups], configuration.sampling.groups_per_batch)
    batches_per_shard = max(1, configuration.orchestration.groups_per_shard // configuration.sampling.groups_per_batch)
    return context.epoch.create_plan(
        {
            "format": PLAN_FORMAT,
            "epoch": context.number,
            "run_id": context.run.info["run_id"],
            "frozen": frozen_fields(context),
            # Free fields, kept so that whoever reads this plan knows what its labels.objectives mean.
            "programmed": context.configuration.model_dump(mode="json")["programmed"],
            "adapter_in": adapter_in(context.run, context.number),
            "groups": groups,
            "shards": {shard_name(index): shard for index, shard in enumerate(chunks(batches, batches_per_shard))},
        }
    )


def prompts_used(run: Run, number: int) -> int:
    """How many prompts the epochs before this one took; those that a fork's parent took before it are counted."""
    before = run.info.get("forked_from", {}).get("prompts_used", 0)
    return before + sum(len(run.epoch(n).plan()["groups"]) for n in run.epochs() if n < number)


def adapter_in(run: Run, number: int) -> dict[str, Any] | None:
    """What an epoch starts from: the parent's epoch and its training's digest; None for the first epoch.

    Raises:
        UserError: The parent epoch is not sealed.
    """
    if number == 0:
        return None
    parent = run.epoch(number - 1)
    commit = parent.latest("train")
    if parent.seal() is None or commit is None:
        raise UserError(
            f"epoch {number} continues epoch {number - 1}, which is not sealed",
            remedy=f"d3po status {run.location} shows what it waits for",
        )
    return {"epoch": number - 1, "train": commit.digest}


def frozen_fields(context: EpochContext) -> dict[str, Any]:
    """What a plan freezes of the configuration, flat."""
    configuration = context.configuration
    return configuration.section_of_class("sampling") | configuration.section_of_class("labels")


def _refuse_changes(context: EpochContext, plan: dict[str, Any]) -> None:
    changes = changed_fields(frozen_fields(context), plan["frozen"])
    if changes:
        raise ConfigurationChangedError(
            f"epoch {context.number} of {run_folder(context.configuration)} was planned with other values:\n  "
            + "\n  ".join(changes),
            remedy="put these fields back until the epoch is sealed; the next epoch may have new ones",
        )


def chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Items in lists of this size, in order; the last may be shorter."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
