"""What is measured on an evaluation's images, value by value, and what the values say together.

Every value is kept with the ids of its image and prompt. A mean's interval is drawn over prompts (see
``d3po_core.statistics``); differences to the pretrained model are paired: the same prompt, the same noise.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from d3po_core.drift import pairwise_distance, pixel_distance
from d3po_core.noise import generator
from d3po_core.records import Group
from d3po_core.statistics import Interval, bootstrap_mean
from storage.evaluation import Evaluation, Part
from storage.tables import EVALUATION, rows_from_bytes, rows_to_bytes
from tasks.config import Configuration
from tasks.evaluation.candidate_images import images_by_group
from tasks.evaluation.held_out import objective_values
from tasks.evaluation.names import BASE, part_name
from tasks.programmed import definitions, objective_unit

__all__ = ["DIVERSITY", "DRIFT", "KL", "meaning_of", "measure_candidate", "summary"]

DIVERSITY, DRIFT, KL = "diversity", "drift", "kl_to_base"
AT_ONCE = 64
"""Images that an objective is asked about together."""

Row = dict[str, Any]


def meaning_of(configuration: Configuration, measure: str) -> str:
    """What a measure's values are, for people."""
    return {
        DIVERSITY: "mean pixel distance between a prompt's images; 0 to 1",
        DRIFT: "mean pixel distance to the base model's image of the same noise; 0 to 1",
        KL: "KL to the base model per transition, nats, mean over the latent's values; each prompt's first image",
    }.get(measure) or f"{objective_unit(configuration, measure)}, higher is better"


def measure_candidate(
    evaluation: Evaluation, configuration: Configuration, candidate: str, eta: float, images: Part, base: Part,
    groups: Sequence[Group],
) -> list[Row]:  # fmt: skip
    """Every value of a candidate at one η, as rows of ``EVALUATION``."""
    count, place = configuration.evaluation.images_per_prompt, {"candidate": candidate, "eta": eta}
    rows = [
        row | place
        for name in configuration.evaluation.objectives
        for row in _objective_rows(evaluation, configuration, candidate, eta, name, images, groups)
    ]
    pairs = zip(
        groups,
        images_by_group(evaluation, images, list(groups), count),
        images_by_group(evaluation, base, list(groups), count),
        strict=True,
    )
    for group, own, others in pairs:
        if (apart := pairwise_distance(own)) is not None:
            rows.append({"group_id": group.id, "trajectory_id": None, "measure": DIVERSITY, "value": apart} | place)
        if candidate != BASE:
            rows += [
                _row(id, DRIFT, value) | place
                for id, value in zip(group.trajectory_ids(count), pixel_distance(own, others).tolist(), strict=True)
            ]
    return rows + [_row(id, KL, value) | place for id, value in images.details["kl"].items()]


def summary(rows: Iterable[Mapping[str, Any]], configuration: Configuration) -> list[dict[str, Any]]:
    """Each candidate's mean of each measure with its interval, and the paired difference to the pretrained model."""
    seed = configuration.seed
    by_prompt: dict[tuple[float, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_prompt[row["eta"], row["measure"], row["candidate"]][row["group_id"]].append(row["value"])
    means = {
        key: {group: float(np.mean(values)) for group, values in groups.items()} for key, groups in by_prompt.items()
    }
    return [
        {
            "candidate": candidate,
            "eta": eta,
            "measure": measure,
            "meaning": meaning_of(configuration, measure),
            "prompts": len(values),
            "values": sum(map(len, by_prompt[eta, measure, candidate].values())),
            "mean": _plain(_interval(list(values.values()), seed, "mean")),
            "difference": _difference(values, means.get((eta, measure, BASE)), seed) if candidate != BASE else None,
        }
        for (eta, measure, candidate), values in means.items()
    ]


def _objective_rows(
    evaluation: Evaluation, configuration: Configuration, candidate: str, eta: float, objective: str, images: Part,
    groups: Sequence[Group],
) -> list[Row]:  # fmt: skip
    """An objective's value of each image: kept in a part of its own, as learned objectives take their time."""
    name = part_name(candidate, eta, f"values-{objective}")
    kept = evaluation.part(name)
    made_of = {"images": images.folder, "objective": definitions(configuration, (objective,))[objective]}
    if kept is None or dict(kept.details) != made_of:
        making = evaluation.begin(name)
        found = [
            _row(id, objective, value) for id, value in _values(evaluation, configuration, objective, images, groups)
        ]
        rows = [row | {"candidate": candidate, "eta": eta} for row in found]
        evaluation.add(making, "values.parquet", rows_to_bytes(rows, EVALUATION))
        kept = evaluation.finish(making, made_of)
    return rows_from_bytes(evaluation.read_part(kept, "values.parquet"), EVALUATION)


def _values(
    evaluation: Evaluation, configuration: Configuration, objective: str, images: Part, groups: Sequence[Group]
) -> Iterator[tuple[str, float]]:
    count = configuration.evaluation.images_per_prompt
    size = max(1, AT_ONCE // count)
    for start in range(0, len(groups), size):
        some = list(groups[start : start + size])
        pixels = np.concatenate(list(images_by_group(evaluation, images, some, count)))
        prompts = [group.prompt for group in some for _ in range(count)]
        values = objective_values(configuration, pixels, prompts, (objective,))[objective]
        yield from zip((id for group in some for id in group.trajectory_ids(count)), values.tolist(), strict=True)


def _row(id: str, measure: str, value: float) -> Row:
    return {"group_id": id.rpartition("-")[0], "trajectory_id": id, "measure": measure, "value": value}


def _difference(own: Mapping[str, float], base: Mapping[str, float] | None, seed: int) -> dict[str, Any] | None:
    if base is None:
        return None
    return _plain(_interval([value - base[group] for group, value in own.items()], seed, "difference"))


def _interval(values: Sequence[float], seed: int, what: str) -> Interval:
    return bootstrap_mean(np.array(values), generator("bootstrap", run_seed=seed, group=what))


def _plain(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
