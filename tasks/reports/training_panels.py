"""A training as small plots: what an objective measures is shown, what it does not measure is left out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from d3po_core.statistics import Interval
from tasks.programmed import objective_unit
from tasks.reports.history import EpochHistory, measured_alike, objective_history, trained_configuration
from tasks.reports.plots import Line, Panel

__all__ = ["accuracy_of", "drift_panels", "judgement_panels", "objective_panels", "training_panels"]

ACCURACY = "train/implicit_acc"
LOG_2 = 0.6931471805599453
PAIRWISE = ("d3po", "trajectory_dpo", "diffusion_dpo")
"""Objectives whose loss is log 2 where nothing is preferred."""
TRAINING: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("loss", {"loss": "train/loss"}, False),
    ("implicit accuracy", {"pairs ordered as judged": ACCURACY}, True),
    ("margin", {"margin": "train/margin"}, False),
    (
        "log-ratio to the reference, nats",
        {"preferred": "train/logratio_preferred", "dispreferred": "train/logratio_dispreferred"},
        False,
    ),
    (
        "clipped share",
        {"preferred": "train/clip_frac_preferred", "dispreferred": "train/clip_frac_dispreferred"},
        True,
    ),
    ("gradient norm, before clipping", {"gradient norm, before clipping": "train/grad_norm"}, False),
)
"""Title, line → metric, whether it is a share."""
NOT_SHOWN = {
    "train/lr", "train/inner_epoch", "train/terms", "train/both_fall", "train/change_preferred",
    "train/change_dispreferred",
}  # fmt: skip
JUDGED: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("marked and tied", {"images marked": "data/marked_rate", "votes that are ties": "data/tie_rate"}, True),
    ("agreement of two judges", {"agreement of two judges": "data/agreement"}, True),
    ("judgements and pairs", {"judgements": "data/judgements", "pairs": "data/pairs"}, False),
)


def accuracy_of(epoch: EpochHistory) -> list[float]:
    """Implicit accuracy at the optimizer steps that can have one.

    Before the first update the policy is its reference, every pair is a tie, and the metric says 0 of what is undecided.
    """
    margins = epoch.trained.get("train/margin", [])
    values = epoch.trained.get(ACCURACY, [])
    return [value for place, value in enumerate(values) if place >= len(margins) or margins[place] != 0.0]


def objective_panels(epochs: Sequence[EpochHistory]) -> Iterator[Panel]:
    """Each objective over the epochs trained: its mean, the paired difference to the start, and how often it is better."""
    for objective in epochs[-1].after if epochs else ():
        found = objective_history(epochs, objective)
        name, unit = objective.replace("_", " "), objective_unit(epochs[-1].context.configuration, objective)
        yield _over_epochs(name, found.trained, found.means, y_label=unit)
        yield _over_epochs(f"{name}: change since {found.since}", found.trained, found.changes, y_label=unit, level=0.0)
        won = [(trained, rate) for trained, rate in zip(found.trained, found.wins, strict=True) if rate is not None]
        if won:
            title, (trained, rates) = f"{name}: win rate against {found.since}", zip(*won, strict=True)
            yield _over_epochs(title, trained, rates, level=0.5, level_name="as often worse", share=True)


def _over_epochs(title: str, trained: Sequence[int], values: Sequence[Interval], **look: Any) -> Panel:
    line = Line(
        name=title,
        x=list(trained),
        y=[one.value for one in values],
        low=[one.value if one.low is None else one.low for one in values],
        high=[one.value if one.high is None else one.high for one in values],
    )
    return Panel(title=title, x_label="epochs trained", lines=[line], **look)


def drift_panels(epochs: Sequence[EpochHistory]) -> Iterator[Panel]:
    """How far the policy is from the pretrained model after each epoch."""
    for name, title, unit in (
        ("pixels", "distance to the pretrained model's images", "of 1, root mean square"),
        ("kl", "KL to the pretrained model", "nats a transition, mean over the latent"),
    ):
        known = [epoch for epoch in measured_alike(epochs) if epoch.drift.get(name)]
        if known:
            x, y = [epoch.number + 1 for epoch in known], [float(np.mean(epoch.drift[name])) for epoch in known]
            line = Line(
                name=title, x=[0, *x] if known[0].number == 0 else x, y=[0.0, *y] if known[0].number == 0 else y
            )
            yield Panel(title=title, x_label="epochs trained", y_label=unit, lines=[line])


def training_panels(epochs: Sequence[EpochHistory]) -> Iterator[Panel]:
    """The training's metrics: every optimizer step, and each epoch's mean where there are several."""
    measured = sorted({name for epoch in epochs for name in epoch.trained})
    known = {metric for _, lines, _ in TRAINING for metric in lines.values()}
    others = [name for name in measured if name not in known | NOT_SHOWN]
    wanted = [*TRAINING, *((_title(name), {_title(name): name}, False) for name in others)]
    pairwise = bool(epochs) and trained_configuration(epochs[-1])["objective.kind"] in PAIRWISE
    for title, metrics, share in wanted:
        lines = [
            line for name, metric in metrics.items() if metric in measured for line in _steps(epochs, name, metric)
        ]
        if not lines or (title == "clipped share" and not any(any(line.y) for line in lines)):
            continue
        level = {"loss": LOG_2 if pairwise else None, "implicit accuracy": 0.5}.get(title)
        yield Panel(
            title=title,
            x_label="epoch" if len(epochs) > 1 else "optimizer step",
            lines=lines,
            level=level,
            level_name={"loss": "log 2: nothing learnt", "implicit accuracy": "chance"}.get(title, "") if level else "",
            share=share,
        )


def judgement_panels(epochs: Sequence[EpochHistory]) -> Iterator[Panel]:
    """What people said, epoch by epoch; shares of nothing are left out."""
    for title, metrics, share in JUDGED:
        lines = []
        for name, metric in metrics.items():
            some = [(epoch.number, epoch.data[metric]) for epoch in epochs if metric in epoch.data]
            if some:
                lines.append(Line(name=name, x=[number for number, _ in some], y=[value for _, value in some]))
        if lines:
            yield Panel(title=title, x_label="epoch", lines=lines, share=share, count=not share)


def _title(metric: str) -> str:
    return metric.partition("/")[2].replace("_", " ")


def _steps(epochs: Sequence[EpochHistory], name: str, metric: str) -> Iterator[Line]:
    """Every step of a single epoch; of several, each one's mean and its steps faintly around it."""
    some = [(epoch, values) for epoch in epochs if (values := _values(epoch, metric))]
    if len(epochs) == 1:
        yield from (_line_of_steps(epoch, values, name, metric) for epoch, values in some)
        return
    yield Line(name=name, x=[epoch.number for epoch, _ in some], y=[float(np.mean(values)) for _, values in some])
    for epoch, values in some:
        # An epoch's steps lie around its number, from half an epoch before it to half after.
        places = (np.arange(len(values)) + 0.5) / len(values) - 0.5 + epoch.number
        yield Line(name=name, x=places.tolist(), y=values, faint=True)


def _values(epoch: EpochHistory, metric: str) -> list[float]:
    return accuracy_of(epoch) if metric == ACCURACY else epoch.trained.get(metric, [])


def _line_of_steps(epoch: EpochHistory, values: list[float], name: str, metric: str) -> Line:
    last = len(epoch.trained[metric])
    return Line(name=name, x=list(range(last - len(values) + 1, last + 1)), y=values)
