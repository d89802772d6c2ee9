"""The pretrained model's log-probs of an epoch's actions, once per image, where the objective holds to that model."""

import numpy as np
import torch

from d3po_core.reference import reference_log_probs
from storage.commits import Commit
from storage.digests import content_digest
from storage.tables import REFERENCE, read_rows, write_table
from tasks.context import EpochContext
from tasks.generation.shards import Check
from tasks.policies import policy_at_start
from tasks.training.source import StoredTrajectories

__all__ = ["needs_reference", "stored_reference", "write_reference"]


def needs_reference(context: EpochContext) -> bool:
    """Whether the reference is another policy than the sampler, whose log-probs are stored with the trajectories.

    In a run's first epoch the sampler is the pretrained model: its adapter adds nothing yet.
    """
    objective = context.configuration.objective
    stored = objective.reference == "pretrained" and objective.spec.quantity == "log_prob"
    return stored and context.plan["adapter_in"] is not None


def write_reference(
    context: EpochContext, name: str = "reference", *, supersede: bool = False, check: Check | None = None
) -> Commit:
    """Evaluate and commit, [T] float64 a trajectory; NaN where a step has no density (σ = 0)."""
    policy, source = policy_at_start(context), StoredTrajectories(context)
    rows = [
        {"trajectory_id": id, "log_prob": row.tolist()}
        for group_ids in _batches(context)
        for id, row in reference_log_probs(policy, source, group_ids).items()
    ]
    attempt = context.epoch.begin(name)
    write_table(attempt.path / "reference.parquet", rows, REFERENCE)
    content = {"log_prob": content_digest({row["trajectory_id"]: np.array(row["log_prob"]) for row in rows})}
    if check is not None:
        check(content)
    return context.epoch.commit(attempt, content=content, supersede=supersede)


def stored_reference(context: EpochContext) -> dict[str, torch.Tensor] | None:
    """Trajectory id → [T] float64 log-probs of the pretrained model; None where the sampler is the reference."""
    if not needs_reference(context):
        return None
    rows = read_rows(context.epoch.fetch(context.epoch.latest("reference"), "reference.parquet"), REFERENCE)
    return {row["trajectory_id"]: torch.tensor(row["log_prob"], dtype=torch.float64) for row in rows}


def _batches(context: EpochContext) -> list[list[str]]:
    return [batch for batches in context.plan["shards"].values() for batch in batches]
