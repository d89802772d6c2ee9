"""What a run's sealed epochs say of themselves, epoch by epoch: for its report, its TensorBoard scalars and its card."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d3po_core.noise import generator
from d3po_core.records import Judgement
from d3po_core.statistics import Interval, bootstrap_mean, wilson_share
from storage.documents import digest_of
from storage.tables import METRICS, read_rows
from tasks.context import EpochContext, planned_context
from tasks.labels.pull import counted_judgements
from tasks.training.training_plan import training_plan

__all__ = [
    "EpochHistory",
    "ObjectiveHistory",
    "PersonsWork",
    "epoch_history",
    "history_of",
    "judged_by",
    "measured_alike",
    "objective_history",
    "persons_work",
    "trained_configuration",
    "trained_digest",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochHistory:
    """One sealed epoch."""

    number: int
    context: EpochContext
    seal: str
    """The digest of its content."""
    trained: dict[str, list[float]]
    """``train/…`` metric → its value at each optimizer step."""
    data: dict[str, float]
    """``data/…`` metrics: judgements, pairs, tie rate, marked rate, agreement."""
    judgements: list[Judgement]
    before: dict[str, list[float]]
    """Objective → its value of each held-out image before the epoch; empty without an evaluation."""
    after: dict[str, list[float]]
    drift: dict[str, list[float]]
    """``pixels`` and ``kl``: how far it is from the pretrained model; empty without an evaluation."""
    prompts: tuple[str, ...]
    """The held-out prompts; values are comparable between epochs that share them."""
    definitions: dict[str, Any]
    """Objective → what it was when it was measured; values are comparable where it is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveHistory:
    """One objective over the held-out images, at the run's start and after each epoch."""

    trained: list[int]
    """Epochs trained; the first is where it was first measured as it is now, 0 the run's start."""
    means: list[Interval]
    changes: list[Interval]
    """Of the paired difference to the first."""
    wins: list[Interval | None]
    """The share of images better than the first's of the same noise, of those that differ; None where none does."""

    @property
    def since(self) -> str:
        """What changes are compared with."""
        return f"epoch {self.trained[0]}'s start" if self.trained and self.trained[0] else "the start"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonsWork:
    """How much one judge did over the run."""

    judge: str
    """``user:7``: a number, never a name."""
    judgements: int
    timed: int
    """Of which it is known how long they took."""
    hours: float | None
    """Looked at the timed ones, by Label Studio's own clock; None where there are none."""
    median_seconds: float | None

    @property
    def per_hour(self) -> float | None:
        """Judgements an hour of looking."""
        return self.timed / self.hours if self.hours else None


def history_of(context: EpochContext, last: int | None = None) -> list[EpochHistory]:
    """The sealed epochs of a run, in order, up to ``last``."""
    run, numbers = context.run, context.run.epochs()
    return [
        epoch_history(planned_context(context.configuration, run, number))
        for number in numbers
        if (last is None or number <= last) and run.epoch(number).seal() is not None
    ]


def objective_history(epochs: Sequence[EpochHistory], objective: str) -> ObjectiveHistory:
    """An objective over the held-out images; epochs that were measured otherwise than the last are left out.

    Otherwise: on other prompts, or with another meaning of the objective.
    """
    meaning = epochs[-1].definitions.get(objective)
    measured = [
        one for one in measured_alike(epochs) if objective in one.after and one.definitions.get(objective) == meaning
    ]
    if not measured:
        return ObjectiveHistory(trained=[], means=[], changes=[], wins=[])
    start = np.array(measured[0].before[objective])
    values = [start, *(np.array(one.after[objective]) for one in measured)]
    seed = measured[0].context.configuration.seed
    return ObjectiveHistory(
        trained=[measured[0].number, *(one.number + 1 for one in measured)],
        means=[bootstrap_mean(one, generator("bootstrap", run_seed=seed, group="mean")) for one in values],
        changes=[
            bootstrap_mean(one - start, generator("bootstrap", run_seed=seed, group="difference")) for one in values
        ],
        wins=[_wins(one - start) for one in values],
    )


def measured_alike(epochs: Sequence[EpochHistory]) -> list[EpochHistory]:
    """Those whose held-out images are of the last one's prompts."""
    return [one for one in epochs if one.prompts == epochs[-1].prompts]


def _wins(change: np.ndarray) -> Interval | None:
    changed = int(np.count_nonzero(change))
    return wilson_share(int(np.count_nonzero(change > 0)), changed) if changed else None


def persons_work(epochs: Sequence[EpochHistory]) -> list[PersonsWork]:
    """Every judge's work over these epochs, most judgements first; programmes do not work."""
    seconds: defaultdict[str, list[float | None]] = defaultdict(list)
    for epoch in epochs:
        for judgement in epoch.judgements:
            if judgement.judge.startswith("user:"):
                seconds[judgement.judge].append(judgement.seconds)
    work = []
    for judge, every in seconds.items():
        known = [value for value in every if value]
        work.append(
            PersonsWork(
                judge=judge,
                judgements=len(every),
                timed=len(known),
                hours=sum(known) / 3600 if known else None,
                median_seconds=float(np.median(known)) if known else None,
            )
        )
    return sorted(work, key=lambda one: (-one.judgements, one.judge))


def judged_by(epochs: Sequence[EpochHistory]) -> str:
    """Who judged: ``3 people``, a programmed objective, or that it was imported."""
    judges = {judgement.judge.partition(":")[::2] for epoch in epochs for judgement in epoch.judgements}
    people = sum(kind == "user" for kind, _ in judges)
    imported = any(kind == "imported" for kind, _ in judges)
    said = [f"{people} {'person' if people == 1 else 'people'}"] if people else []
    said += sorted(name for kind, name in judges if kind == "programmed")
    return ", ".join([*said, *(["an imported data set"] if imported else [])]) or "nobody"


def trained_configuration(epoch: EpochHistory) -> dict[str, Any]:
    """The training fields that an epoch's attempt froze, flat: ``{"objective.kind": "d3po", …}``."""
    return training_plan(epoch.context.epoch, epoch.context.epoch.latest("train-plan"))["frozen"]


def trained_digest(epoch: EpochHistory) -> str:
    """Of every field that decided what an epoch sampled, showed and trained; not of where it lies or who computed it."""
    context = epoch.context
    decided = context.configuration.section_of_class("run") | context.plan["frozen"] | trained_configuration(epoch)
    return digest_of(decided)


def epoch_history(context: EpochContext) -> EpochHistory:
    """What one sealed epoch says of itself."""
    epoch = context.epoch
    trained: defaultdict[str, list[float]] = defaultdict(list)
    for row in read_rows(epoch.fetch(epoch.latest("train"), "metrics.parquet"), METRICS):
        if row["name"].startswith("train/"):
            trained[row["name"]].append(row["value"])
    evaluation = json.loads(epoch.read_aside("report/evaluation.json") or b"{}")
    return EpochHistory(
        number=context.number,
        context=context,
        seal=epoch.seal()["digest"],
        trained=dict(trained),
        data=training_plan(epoch, epoch.latest("train-plan"))["metrics"],
        judgements=counted_judgements(context),
        before=evaluation.get("before", {}),
        after=evaluation.get("after", {}),
        drift=evaluation.get("drift", {}),
        prompts=tuple(evaluation.get("prompts", ())),
        definitions=evaluation.get("objectives", {}),
    )
