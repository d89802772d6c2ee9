"""Epochs of any number of groups for measuring: synthetic trajectories and people's answers, without a model.

The trajectories are small noise, the images 16 × 16 pixels of it; both are committed as generation commits its own.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4
from zlib import crc32

import numpy as np

from storage.trajectories import TrajectoryArrays, write_shard
from tasks.context import EpochContext
from tasks.label_studio.client import LabelStudioClient
from tasks.label_studio.reading import read_export
from tasks.label_studio.screens import COMPARE_VERDICTS, result_for
from tasks.labels.pull import judgements_of
from tasks.labels.push import push_plan, pushed

__all__ = ["answer_everything", "answers_read_alike", "judgements_given", "judgements_pulled", "write_shards"]

ANSWERED_BY_API = 4
OWN = {"id", "inner_id", "task", "unique_id", "created_at", "updated_at"}
"""What differs from record to record whoever wrote it."""

Said = tuple[str, dict[str, tuple[float, ...]]]
"""A verdict, and the level of each image by trajectory id."""


def write_shards(context: EpochContext) -> None:
    """Commit every planned shard, with noise for trajectories and images."""
    groups, size = context.groups(), context.configuration.sampling.group_size
    for name, batches in context.plan["shards"].items():
        ids = [(group, id) for batch in batches for group in batch for id in groups[group].trajectory_ids(size)]
        noise = np.random.default_rng(crc32(name.encode()))
        arrays = TrajectoryArrays(
            ids=tuple(id for _, id in ids),
            group_ids=tuple(group for group, _ in ids),
            prompts=tuple(groups[group].prompt for group, _ in ids),
            latents=noise.standard_normal((len(ids), 2, 4, 2, 2), np.float32),
            latents_dtype="float32",
            log_prob=noise.standard_normal((len(ids), 1)),
            timesteps=np.array([1]),
            trainable=np.array([True]),
        )
        attempt = context.epoch.begin(name)
        content = write_shard(attempt.path, arrays, noise.integers(0, 256, (len(ids), 16, 16, 3), np.uint8))
        context.epoch.commit(attempt, {"trajectories": len(ids)}, content)


def verdict_of(group_id: str) -> str:
    """What the person says of a group: one of the four answers, by the group's id."""
    return COMPARE_VERDICTS[crc32(group_id.encode()) % len(COMPARE_VERDICTS)]


def answer_everything(context: EpochContext, client: LabelStudioClient, database: Path) -> None:
    """One person's answer to every comparison: a few through the API, the others as copies of those in its database.

    Args:
        context: An epoch whose comparisons are pushed.
        client: The person's.
        database: Label Studio's SQLite file.
    """
    plan, ls_tasks = push_plan(context), pushed(context)["ls_tasks"]
    task_of = {group: ls_tasks[plan.uid(group)][0] for group in plan.orders}
    for group in list(task_of)[:ANSWERED_BY_API]:
        annotation = client.annotate(task_of[group], result_for(plan.screen, verdict_of(group)), seconds=1.0)
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.row_factory = sqlite3.Row
        [row] = connection.execute("SELECT * FROM task_completion WHERE id = ?", (annotation,))
        columns = [name for name in row.keys() if name != "id"]  # noqa: SIM118 — a Row iterates over its values
        copies = (
            {
                **dict(row),
                "task_id": task_of[group],
                "unique_id": uuid4().hex,
                "result": json.dumps(result_for(plan.screen, verdict_of(group))),
            }
            for group in list(task_of)[ANSWERED_BY_API:]
        )
        connection.executemany(
            f"INSERT INTO task_completion ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})",
            copies,
        )
        counted = "is_labeled, total_annotations, cancelled_annotations, updated_at, updated_by_id"
        connection.execute(
            f"UPDATE task SET ({counted}) = (SELECT {counted} FROM task WHERE id = ?) WHERE project_id = ?",
            (row["task_id"], row["project_id"]),
        )


def judgements_given(context: EpochContext) -> dict[str, Said]:
    """What the answers mean, from which image stood where on the screen."""
    return {group: _meant(verdict_of(group), order) for group, order in push_plan(context).orders.items()}


def judgements_pulled(context: EpochContext) -> dict[str, Said]:
    """What the committed judgements say.

    Raises:
        ValueError: A group has several, and was answered once.
    """
    judgements = judgements_of(context)
    said = {one.group_id: (one.verdict, dict(zip(one.trajectory_ids, one.levels, strict=True))) for one in judgements}
    if len(said) != len(judgements):
        raise ValueError(f"{len(judgements)} judgements on {len(said)} groups")
    return said


def answers_read_alike(export: Path) -> bool:
    """Whether every record of an export has the shape and the values that the API's answers have."""

    def shared(record: dict) -> str:
        [annotation] = record["annotations"]
        [answer] = annotation["result"]
        annotation = {key: value for key, value in annotation.items() if key not in OWN}
        annotation["result"] = [{**answer, "value": sorted(answer["value"])}]
        rest = {key: value for key, value in record.items() if key not in {*OWN, "data", "annotations"}}
        return json.dumps([rest, annotation], sort_keys=True, default=str)

    return len({shared(record) for record in read_export(export)}) == 1


def _meant(verdict: str, order: tuple[str, ...]) -> Said:
    left, right = order
    levels = {left: (float(verdict == "left"),), right: (float(verdict == "right"),)}
    return ("prefer" if verdict in ("left", "right") else verdict), levels
