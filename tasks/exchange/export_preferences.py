"""What was judged as a data set: in Pick-a-Pic's columns, one row a judgement and pair, or as prompt/chosen/rejected.

Images are the PNGs that were judged, byte for byte, also where a column is called ``jpg_0``: readers open both alike.
People are numbers; names stay where they are.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from d3po_core.preferences import latest_judgements, votes_of
from storage.layout import IMAGES_FOLDER
from tasks.context import EpochContext, planned_context
from tasks.errors import UserError
from tasks.labels.pull import counted_judgements
from tasks.training.training_plan import pairs_of

__all__ = ["KINDS", "PICKAPIC", "export_preferences"]

PICKAPIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
    ]
)
"""The columns of yuvalkirstain/pickapic_v1 and _v2. ``user_id`` is empty for a programme's judgements, URLs always."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CHOSEN = pa.schema(
    [("prompt", pa.string()), ("chosen", _IMAGE), ("rejected", _IMAGE), ("target", pa.float64())],
    metadata={
        "huggingface": json.dumps(
            {
                "info": {
                    "features": {
                        "prompt": {"dtype": "string", "_type": "Value"},
                        "chosen": {"_type": "Image"},
                        "rejected": {"_type": "Image"},
                        "target": {"dtype": "float64", "_type": "Value"},
                    }
                }
            }
        )
    },
)
"""The pairs that were trained on, without even splits; ``target`` is P(chosen ≻ rejected), 1 but for soft votes."""

KINDS = {"pickapic": PICKAPIC, "chosen": CHOSEN}
ROWS_AT_ONCE = 256


def export_preferences(context: EpochContext, folder: Path, kind: str) -> tuple[Path, int]:
    """Write ``preferences-<kind>.parquet`` of the run's sealed epochs, up to the given one.

    Args:
        context: The last epoch to be in it.
        folder: Where to write; made where it is missing.
        kind: ``pickapic`` or ``chosen``.

    Returns:
        The file and its number of rows.

    Raises:
        UserError: Another kind, or nothing was judged.
    """
    if kind not in KINDS:
        raise UserError(
            f"--preferences is {kind!r}, expected {' or '.join(KINDS)}",
            remedy="d3po export RUN FOLDER --preferences pickapic",
        )
    sealed = [
        planned_context(context.configuration, context.run, number)
        for number in context.run.epochs()
        if number <= context.number and context.run.epoch(number).seal() is not None
    ]
    found = _pickapic(sealed) if kind == "pickapic" else _chosen(sealed)
    folder.mkdir(parents=True, exist_ok=True)
    file, count = folder / f"preferences-{kind}.parquet", 0
    with pq.ParquetWriter(file, KINDS[kind]) as writer:
        for rows in _chunks(found):
            writer.write_table(pa.Table.from_pylist(rows, schema=KINDS[kind]))
            count += len(rows)
    if count == 0:
        file.unlink()
        raise UserError(
            f"nothing of {context.run.location} can be exported: no {'judgement' if kind == 'pickapic' else 'pair'} up to "
            f"epoch {context.number}",
            remedy=f"d3po status {context.run.location}",
        )
    return file, count


def _pickapic(epochs: Sequence[EpochContext]) -> Iterator[dict[str, Any]]:
    ranking = 0
    examples = _examples_per_prompt(epochs)
    for context in epochs:
        images, groups = _Images(context), context.groups()
        model = _model_of(context)
        for judgement in latest_judgements(counted_judgements(context))[0]:
            prompt = groups[judgement.group_id].prompt
            for (first, second), vote in votes_of(judgement).items():
                uids = [_uid(context, first), _uid(context, second)]
                labels = {1: (1.0, 0.0), -1: (0.0, 1.0), 0: (0.5, 0.5)}[vote]
                pictures = (images.read(first), images.read(second))
                yield {
                    "are_different": pictures[0] != pictures[1],
                    "best_image_uid": {1: uids[0], -1: uids[1], 0: "tie"}[vote],
                    "caption": prompt,
                    "created_at": _utc(judgement.updated_at),
                    "has_label": True,
                    "image_0_uid": uids[0],
                    "image_1_uid": uids[1],
                    "jpg_0": pictures[0],
                    "jpg_1": pictures[1],
                    "label_0": labels[0],
                    "label_1": labels[1],
                    "model_0": model,
                    "model_1": model,
                    "ranking_id": ranking,
                    "user_id": _user(judgement.judge),
                    "num_example_per_prompt": examples[prompt],
                }
                ranking += 1


def _chosen(epochs: Sequence[EpochContext]) -> Iterator[dict[str, Any]]:
    for context in epochs:
        images, groups = _Images(context), context.groups()
        for pair in pairs_of(context, context.epoch.latest("train-plan")):
            if pair.target <= 0.5:  # an even split of soft votes: neither was chosen
                continue
            yield {
                "prompt": groups[pair.group_id].prompt,
                "chosen": {"bytes": images.read(pair.preferred), "path": f"{pair.preferred}.png"},
                "rejected": {"bytes": images.read(pair.dispreferred), "path": f"{pair.dispreferred}.png"},
                "target": pair.target,
            }


class _Images:
    """The committed PNGs of an epoch by trajectory id; their digests are looked at when they are read."""

    def __init__(self, context: EpochContext) -> None:
        self._epoch = context.epoch
        self._place = {
            Path(file).stem: (commit, file)
            for commit in self._epoch.latest_all(context.plan["shards"]).values()
            for file in commit.files
            if file.startswith(f"{IMAGES_FOLDER}/")
        }

    def read(self, trajectory: str) -> bytes:
        return self._epoch.fetch(*self._place[trajectory]).read_bytes()


def _examples_per_prompt(epochs: Sequence[EpochContext]) -> Counter[str]:
    return Counter(
        context.groups()[judgement.group_id].prompt
        for context in epochs
        for judgement in latest_judgements(counted_judgements(context))[0]
        for _ in votes_of(judgement)
    )


def _uid(context: EpochContext, trajectory: str) -> str:
    return f"{context.uid_prefix}/{trajectory}"


def _model_of(context: EpochContext) -> str:
    """Who made the images: the base model, from the second epoch on with the adapter of the epoch before."""
    adapter = context.plan["adapter_in"]
    made_by = "" if adapter is None else f" + {context.configuration.run}:{adapter['epoch']}"
    return f"{context.configuration.model.path}{made_by}"


def _user(judge: str) -> int | None:
    with suppress(ValueError):
        return int(judge.removeprefix("user:").removeprefix("imported:"))
    return None


def _utc(iso: str) -> datetime:
    """Without a zone, as Pick-a-Pic's times are; in UTC."""
    time = datetime.fromisoformat(iso)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == ROWS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some
