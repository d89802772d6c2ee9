"""What a training attempt froze: its labels, and the fields and sizes that hold until it is finished."""

import json
from typing import Any

from d3po_core.records import Pair, Reward
from storage.commits import Commit
from storage.epoch import Epoch
from storage.tables import PAIRS, REWARDS, read_rows
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.labels.voided import voided

__all__ = ["has_voided", "pairs_of", "refuse_voided_pairs", "rewards_of", "training_plan"]


def training_plan(epoch: Epoch, attempt: Commit) -> dict[str, Any]:
    """What an attempt froze: ``frozen`` fields, ``micro_batch``, ``training_processes``, statistics of its pairs."""
    return json.loads(epoch.fetch(attempt, "plan.json").read_text())


def pairs_of(context: EpochContext, attempt: Commit) -> list[Pair]:
    """The pairs that a training attempt froze."""
    return [Pair(**row) for row in read_rows(context.epoch.fetch(attempt, "pairs.parquet"), PAIRS)]


def rewards_of(context: EpochContext, attempt: Commit) -> list[Reward]:
    """The rewards that a training attempt froze; none where the objective learns from preferences."""
    if not attempt.details.get("rewards"):
        return []
    return [Reward(**row) for row in read_rows(context.epoch.fetch(attempt, "rewards.parquet"), REWARDS)]


def refuse_voided_pairs(context: EpochContext) -> None:
    """Never seal what was trained on groups that no longer count.

    Raises:
        UserError: They were voided while it trained.
    """
    attempt = context.epoch.latest("train-plan")
    if attempt is not None and has_voided(context, attempt):
        raise UserError(
            f"epoch {context.number} was trained on groups that were voided meanwhile",
            remedy=f"d3po fork {run_folder(context.configuration)} NAME trains on the others",
        )


def has_voided(context: EpochContext, attempt: Commit) -> bool:
    """Whether it would train on images that are not the judged ones."""
    lost = voided(context)
    return bool(lost) and not lost.isdisjoint(
        one.group_id for one in (*pairs_of(context, attempt), *rewards_of(context, attempt))
    )
