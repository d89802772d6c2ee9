"""A training attempt begins: the labels made of the judgements, and what holds until it is finished."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from d3po_core.preferences import PreferenceStatistics, judgements_to_pairs
from d3po_core.records import Judgement, Pair, Reward
from storage.commits import Commit
from storage.errors import ConfigurationChangedError
from storage.tables import JUDGES, PAIRS, REWARDS, rows_digest, write_table
from tasks.config_changes import changed_fields
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.labels.judges import JUDGES_FILE, agreement_of_epoch, doubts, judge_rows
from tasks.labels.pull import counted_judgements
from tasks.log import flow_run_id, logger
from tasks.training.micro_batch import micro_batch
from tasks.training.training_plan import has_voided, training_plan

__all__ = ["TRAINING_FORMAT", "training_attempt"]

TRAINING_FORMAT = "d3po-training/1"


def training_attempt(context: EpochContext, retrain: bool = False) -> Commit:
    """The open training attempt; a new one where there is none, ``retrain`` asks for it, or a pair of it was voided.

    Raises:
        ConfigurationChangedError: The open attempt was begun with other training fields.
    """
    epoch = context.epoch
    existing, flow_run = epoch.latest("train-plan"), flow_run_id()
    # A flow run that was asked to begin again does so once, however often it is itself retried.
    again = retrain and (flow_run is None or existing is None or existing.details.get("flow_run") != flow_run)
    if existing is not None and not again:
        frozen = training_plan(epoch, existing)["frozen"]
        changes = changed_fields(context.configuration.section_of_class("training"), frozen)
        if changes:
            raise ConfigurationChangedError(
                f"the training of epoch {context.number} was begun with other values:\n  " + "\n  ".join(changes),
                remedy="put these fields back, or d3po run CONFIG --retrain to begin a new attempt with them",
            )
        if not has_voided(context, existing):
            return existing
        logger().warning(
            "groups of training attempt %s were voided since; a new one begins without them", existing.attempt
        )
    judgements = counted_judgements(context)
    pairs, statistics = judgements_to_pairs(judgements, context.configuration.training.votes)
    rewards = _rewards(context, judgements) if context.configuration.objective.spec.labels == "rewards" else []
    agreement = agreement_of_epoch(context)
    attempt = epoch.begin("train-plan")
    body = {
        "format": TRAINING_FORMAT,
        "frozen": context.configuration.section_of_class("training"),
        "micro_batch": micro_batch(context.configuration, context.epoch) if pairs or rewards else 1,
        "statistics": asdict(statistics),
        "metrics": statistics.metrics() | agreement.metrics(),
        "training_processes": context.configuration.orchestration.training_processes,
    }
    (attempt.path / "plan.json").write_text(json.dumps(body, indent=1))
    content = {"pairs": rows_digest(_rows(pairs), PAIRS)}
    write_table(attempt.path / "pairs.parquet", _rows(pairs), PAIRS)
    write_table(attempt.path / JUDGES_FILE, judge_rows(agreement), JUDGES)
    if rewards:
        content["rewards"] = rows_digest(_rows(rewards), REWARDS)
        write_table(attempt.path / "rewards.parquet", _rows(rewards), REWARDS)
    details = {"pairs": len(pairs), "rewards": len(rewards), "flow_run": flow_run}
    commit = epoch.commit(attempt, details, content, supersede=existing is not None)
    _log_statistics(statistics, pairs)
    for doubt in doubts(agreement, context.configuration.labels.gold_floor):
        logger().warning("%s", doubt)
    if not pairs and not rewards:
        logger().warning(
            "nothing to train on: every comparison was a tie, undecided or voided; the adapter stays as it was"
        )
    return commit


def _rewards(context: EpochContext, judgements: Sequence[Judgement]) -> list[Reward]:
    """The values that a programme gave each image, by which it judged."""
    source = context.epoch.latest("pull").details.get("source", "people")
    if source != "programmed":
        kind = context.configuration.objective.kind
        raise UserError(
            f"objective.kind {kind} needs a reward for each image, and in epoch {context.number} images were compared by "
            f"people (pull: {source})",
            remedy="choose an objective that learns from preferences: docs/methods.md",
        )
    groups = context.groups()
    return [
        Reward(trajectory_id=id, group_id=item.group_id, prompt=groups[item.group_id].prompt, value=level[0])
        for item in judgements
        for id, level in zip(item.trajectory_ids, item.levels, strict=True)
    ]


def _rows(records: Iterable[Any]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]


def _log_statistics(statistics: PreferenceStatistics, pairs: tuple[Pair, ...]) -> None:
    log = logger()
    log.info("%d pairs from %d judgements: %s", len(pairs), statistics.judgements, statistics.metrics())
    for item in statistics.contradictions:
        log.warning(
            "%s judged %s twice and otherwise: %s counts, %s does not",
            item.judge,
            item.group_id,
            item.counted,
            item.earlier,
        )
