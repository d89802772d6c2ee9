"""What was said of an epoch's groups: progress while people judge, then the export, frozen, as judgements."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prefect import task
from prefect.cache_policies import NO_CACHE

from d3po_core.programmed.judges import programmed_judgement
from d3po_core.records import Judgement
from storage.layout import IMAGES_FOLDER
from storage.tables import JUDGEMENTS, PEOPLE, read_rows, write_table
from tasks.context import EpochContext
from tasks.label_studio.parse import ParsedAnnotations, PushPlan, parse_export
from tasks.label_studio.reading import read_export
from tasks.labels.connection import connect
from tasks.labels.gold import GOLD_FOLDER
from tasks.labels.progress import Progress, progress
from tasks.labels.push import push_plan, pushed
from tasks.labels.repeats import judgements_wanted
from tasks.labels.voided import voided
from tasks.log import logger
from tasks.programmed import definitions, programmed_objective
from tasks.upkeep.forget import PEOPLE_FILE, forgotten

__all__ = [
    "counted_judgements",
    "gold_answers",
    "gold_values",
    "images_of",
    "judge_by_programme",
    "judgements_of",
    "labels_complete",
    "labels_progress",
    "late_judgements",
    "programmed_values",
    "pull",
    "write_judgements",
]

JUDGEMENTS_FILE = "judgements.parquet"
GOLD_FILE = "gold.parquet"
"""Answers that are known, in a file of their own: what is trained on is read from the other."""


def labels_progress(context: EpochContext) -> Progress:
    """How far the people are, from validated judgements: the one answer for the gate, the flow and ``status``."""
    client = connect()
    project = pushed(context)["project"]
    client.check_screen(project, push_plan(context).screen)
    return _progress(context, _parse(context, client.annotations(project)))


def labels_complete(context: EpochContext, progress: Progress) -> bool:
    """Whether the epoch may go on: every group is settled, or somebody said to proceed with what there is."""
    return progress.complete or bool(context.epoch.notes("proceed"))


def late_judgements(context: EpochContext) -> int:
    """How many judgements came, or were changed, after they were pulled."""
    frozen = {(item.id, item.updated_at) for item in judgements_of(context)}
    current = _parse(context, connect().annotations(pushed(context)["project"])).judgements
    lost = voided(context)
    return sum(item.group_id not in lost and (item.id, item.updated_at) not in frozen for item in current)


@task(name="pull", cache_policy=NO_CACHE, persist_result=False)
def pull(context: EpochContext) -> dict[str, int]:
    """Freeze the judgements: the raw export, the validated table, and what was set aside with its reasons."""
    epoch = context.epoch
    if epoch.latest("pull") is None:
        client = connect()
        project = pushed(context)["project"]
        client.check_screen(project, push_plan(context).screen)
        attempt = epoch.begin("pull")
        client.export(project, attempt.path / "export.json.gz")
        parsed = _parse(context, read_export(attempt.path / "export.json.gz"))
        done = _progress(context, parsed)
        write_judgements(attempt.path, parsed.judgements)
        if parsed.gold:
            write_judgements(attempt.path, parsed.gold, GOLD_FILE)
        (attempt.path / "set-aside.json").write_text(_set_aside(parsed, done))
        details = {
            "judgements": len(parsed.judgements),
            "gold_answers": len(parsed.gold),
            "skips": len(parsed.skips),
            "set_aside": len(parsed.set_aside),
            "drafts": parsed.drafts,
            "groups_settled": len(done.settled),
            "groups_open": len(done.open),
        }
        _report(parsed)
        # Before the commit, after which a rerun does not come here again.
        people = attempt.path.parent / f"people-{attempt.id}.parquet"
        write_table(people, client.people(parsed.people - forgotten(context.run)), PEOPLE)
        epoch.write_aside(PEOPLE_FILE, people.read_bytes())
        people.unlink()
        epoch.commit(attempt, details)
    return dict(epoch.latest("pull").details)


@task(name="judge", cache_policy=NO_CACHE, persist_result=False)
def judge_by_programme(context: EpochContext) -> dict[str, Any]:
    """Judgements by the programmed objectives, through the same table as people's."""
    epoch = context.epoch
    if epoch.latest("pull") is None:
        objectives, size = context.configuration.labels.objectives, context.configuration.sampling.group_size
        values = {name: programmed_values(context, name) for name in objectives}
        judgements = (
            programmed_judgement(
                group.id,
                group.trajectory_ids(size),
                {name: [value_of[id] for id in group.trajectory_ids(size)] for name, value_of in values.items()},
                _now(),
            )
            for group in context.groups().values()
        )
        attempt = epoch.begin("pull")
        write_judgements(attempt.path, judgements)
        by = definitions(context.configuration, objectives)
        epoch.commit(attempt, {"judgements": len(context.groups()), "source": "programmed", "objectives": by})
    return dict(epoch.latest("pull").details)


def judgements_of(context: EpochContext) -> list[Judgement]:
    """The frozen judgements of the epoch."""
    return _read_judgements(context, JUDGEMENTS_FILE)


def counted_judgements(context: EpochContext) -> list[Judgement]:
    """Those of groups whose images are the ones that were judged."""
    lost = voided(context)
    return [item for item in judgements_of(context) if item.group_id not in lost]


def gold_answers(context: EpochContext) -> list[Judgement]:
    """What people said, until the pull, of the comparisons whose answer is known."""
    return _read_judgements(context, GOLD_FILE) if GOLD_FILE in context.epoch.latest("pull").files else []


def _read_judgements(context: EpochContext, file: str) -> list[Judgement]:
    rows = read_rows(context.epoch.fetch(context.epoch.latest("pull"), file), JUDGEMENTS)
    return [
        Judgement(**row | {"trajectory_ids": tuple(row["trajectory_ids"]), "levels": tuple(map(tuple, row["levels"]))})
        for row in rows
    ]


def programmed_values(context: EpochContext, objective: str) -> dict[str, float]:
    """Trajectory id → what a programmed objective says of its image, over the whole epoch, shard by shard."""
    groups, judge = context.groups(), programmed_objective(context.configuration, objective)
    values: dict[str, float] = {}
    for name in context.plan["shards"]:
        images = images_of(context, name)
        prompts = [groups[id.rpartition("-")[0]].prompt for id in images]
        found = judge(np.stack(list(images.values())), prompts, list(images))
        values |= zip(images, found.tolist(), strict=True)
    return values


def gold_values(context: EpochContext, plan: PushPlan, objective: str) -> dict[str, float]:
    """Image id → what a programmed objective says of it, over the comparisons with a known answer."""
    shown = {image: known.prompt for known in plan.gold.values() for image in known.order}
    if not shown:
        return {}
    folder = context.epoch.fetch(context.epoch.latest("push-plan"), GOLD_FOLDER)
    images = np.stack([np.asarray(Image.open(folder / f"{image}.png").convert("RGB")) for image in shown])
    found = programmed_objective(context.configuration, objective)(images, [*shown.values()])
    return dict(zip(shown, found.tolist(), strict=True))


def images_of(context: EpochContext, name: str) -> dict[str, np.ndarray]:
    """Trajectory id → [height, width, 3] uint8, of one committed shard, in id order."""
    commit = context.epoch.latest(name)
    folder = context.epoch.fetch(commit)
    files = sorted(file for file in commit.files if file.startswith(f"{IMAGES_FOLDER}/"))
    return {Path(file).stem: np.asarray(Image.open(f"{folder}/{file}").convert("RGB")) for file in files}


def _parse(context: EpochContext, records: Iterable[dict[str, Any]]) -> ParsedAnnotations:
    return parse_export(records, push_plan(context), pushed(context)["ls_tasks"])


def _progress(context: EpochContext, parsed: ParsedAnnotations) -> Progress:
    lost = voided(context)
    return progress(
        [group for group in context.groups() if group not in lost],
        parsed.judgements,
        parsed.skips,
        judgements_per_group=judgements_wanted(context),
        max_skips=context.configuration.labels.max_skips,
    )


def write_judgements(folder: Path, judgements: Iterable[Judgement], file: str = JUDGEMENTS_FILE) -> None:
    """The table of an epoch's judgements, as a pull commits it."""
    rows = (
        {
            "id": item.id,
            "group_id": item.group_id,
            "judge": item.judge,
            "verdict": item.verdict,
            "trajectory_ids": list(item.trajectory_ids),
            "levels": [list(level) for level in item.levels],
            "updated_at": item.updated_at,
            "seconds": item.seconds,
        }
        for item in judgements
    )
    write_table(folder / file, rows, JUDGEMENTS)


def _set_aside(parsed: ParsedAnnotations, done: Progress) -> str:
    body = {
        "format": "d3po-set-aside/1",
        "annotations": [{"id": item.id, "reason": item.reason, "group": item.group} for item in parsed.set_aside],
        "groups_skipped": sorted(done.set_aside),
        "groups_open": sorted(done.open),
        "groups_missing_in_label_studio": parsed.missing,
        "drafts": parsed.drafts,
    }
    return json.dumps(body, indent=1)


def _report(parsed: ParsedAnnotations) -> None:
    reasons = Counter(item.reason for item in parsed.set_aside)
    for reason, count in reasons.most_common():
        logger().warning("%d annotations were set aside: %s", count, reason)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
