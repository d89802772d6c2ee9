"""The report of a run over all its sealed epochs: one page, and TensorBoard's scalars beside it; derived, repeatable."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from tasks.context import EpochContext, base_model, run_folder
from tasks.reports import page
from tasks.reports.blind_section import blind_section
from tasks.reports.figures import side_by_side
from tasks.reports.history import (
    EpochHistory,
    history_of,
    judged_by,
    measured_alike,
    objective_history,
    persons_work,
    trained_configuration,
    trained_digest,
)
from tasks.reports.plots import bars, panel
from tasks.reports.tensorboard import EVENTS_FILE, event_file
from tasks.reports.training_panels import accuracy_of, drift_panels, judgement_panels, objective_panels, training_panels

__all__ = ["HELD_OUT_KEPT", "REPORT", "held_out_key", "write_run_report"]

REPORT = "report.html"
HELD_OUT_KEPT = 16
"""Held-out images of each epoch that are kept for the grids."""
ROWS = 6
"""Epochs in a grid: the start, the last, and some between."""
SHOWN_OF_JUDGEMENTS = (
    ("data/tie_rate", ".0%"),
    ("data/marked_rate", ".0%"),
    ("data/agreement", ".0%"),
    ("data/krippendorff_alpha", ".2f"),
    ("data/gold_accuracy", ".0%"),
)
"""Metrics in the table of epochs, and how they are written."""


def held_out_key(when: str, index: int) -> str:
    """Where an epoch keeps a held-out image: ``report/held-out/after-000003.png``."""
    return f"report/held-out/{when}-{index:06d}.png"


def write_run_report(context: EpochContext) -> str:
    """Write ``report/report.html`` and ``report/tensorboard/`` of the run; returns where the page is."""
    epochs = history_of(context)
    context.run.write_report(EVENTS_FILE, event_file(epochs))
    context.run.write_report(REPORT, _page(context, epochs))
    return f"{context.run.location}/report/{REPORT}"


def _page(context: EpochContext, epochs: Sequence[EpochHistory]) -> bytes:
    configuration = context.configuration
    objective = trained_configuration(epochs[-1])["objective.kind"]
    judged = sum(len(epoch.judgements) for epoch in epochs)
    lead = (
        f"{len(epochs)} epoch{'s' if len(epochs) > 1 else ''} of {objective} on {configuration.model.path}, {judged:,} "
        f"judgements by {judged_by(epochs)}."
    )
    measured = list(objective_panels(epochs))
    trained = list(training_panels(epochs))
    said = list(judgement_panels(epochs)) if len(epochs) > 1 else []  # one point says less than the table below
    held_out = len(epochs[-1].prompts)
    body = [
        page.tiles(_tiles(epochs)),
        page.section(
            "Did it get better?",
            page.grid(page.figure(panel(one), one.title) for one in measured),
            note=f"{held_out} held-out prompts with the same noise in every epoch, one image each; higher is better. Bars are "
            "bootstrapped 95 % intervals over the prompts; the change is paired, image by image. The win rate is the share of images "
            "that are better than the start's, of those that differ, with its Wilson interval.",
        ),
        blind_section(context.run),
        page.section(
            "How far from the pretrained model?",
            page.grid(page.figure(panel(one), one.title) for one in drift_panels(epochs)),
            note="Over the held-out prompts with the same noise. A distance that grows while the objective does not is "
            "drift.",
        ),
        page.section("Before and after", _grid(epochs), note="The same prompt and the same noise in a column."),
        page.section(
            "Training",
            page.grid(page.figure(panel(one), one.title) for one in trained),
            note="Each optimizer step, and where there are several epochs each one's mean. The loss alone says little: "
            "look at the accuracy, and that preferred rises above dispreferred.",
        ),
        page.section(
            "Judgements",
            page.grid(page.figure(panel(one), one.title) for one in said),
            *_people(epochs),
            note="Agreement: the share of equal votes, over every two judges of one pair of images.",
        ),
        page.section("Epochs", _epochs_table(epochs)),
        page.section("Facts", page.table(("", ""), _facts(context, epochs))),
    ]
    return page.page(configuration.run, lead, body)


def _tiles(epochs: Sequence[EpochHistory]) -> Iterator[tuple[str, str, str]]:
    for objective in epochs[-1].after:
        found = objective_history(epochs, objective)
        change = found.changes[-1]
        spread = "" if change.low is None else f"95 %: {change.low:+.3g} to {change.high:+.3g}"
        yield (
            f"{objective.replace('_', ' ')}, change since {found.since}",
            f"{change.value:+.3g}",
            spread or f"now {found.means[-1].value:.3g}",
        )
    last = epochs[-1]
    if accuracy := accuracy_of(last):
        yield "implicit accuracy", f"{np.mean(accuracy):.0%}", f"epoch {last.number}, chance is 50 %"
    if "data/marked_rate" in last.data:
        yield "images marked", f"{last.data['data/marked_rate']:.0%}", f"in epoch {last.number}"
    if "data/agreement" in last.data:
        yield "agreement", f"{last.data['data/agreement']:.0%}", "of two judges on one pair"
    yield "judgements", f"{sum(len(epoch.judgements) for epoch in epochs):,}", f"by {judged_by(epochs)}"
    yield "epochs", str(len(epochs)), "sealed"


def _grid(epochs: Sequence[EpochHistory]) -> str:
    """The same held-out images at the start and after some epochs, the last among them."""
    epochs = measured_alike(epochs)
    some = [
        epochs[place] for place in np.unique(np.linspace(0, len(epochs) - 1, min(ROWS - 1, len(epochs))).astype(int))
    ]
    start = "start" if epochs[0].number == 0 else f"epoch {epochs[0].number}'s start"
    rows = {start: _kept(epochs[0], "before")} | {
        f"epoch {epoch.number}" if len(epochs) > 1 else "after": _kept(epoch, "after") for epoch in some
    }
    rows = {name: images for name, images in rows.items() if images}
    count = min((len(images) for images in rows.values()), default=0)
    if count == 0 or len(rows) < 2:
        return ""
    sheet = side_by_side({name: images[:count] for name, images in rows.items()}, epochs[-1].prompts[:count])
    return page.figure(sheet, "Held-out images before and after.", wide=True)


def _kept(epoch: EpochHistory, when: str) -> list[np.ndarray]:
    images = []
    for index in range(min(HELD_OUT_KEPT, len(epoch.prompts))):
        data = epoch.context.epoch.read_aside(held_out_key(when, index))
        if data is None:
            break
        images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    return images


def _people(epochs: Sequence[EpochHistory]) -> Iterator[str]:
    work = persons_work(epochs)
    if not work:
        return
    speeds = {_person(one.judge): (one.per_hour, None, None) for one in work if one.per_hour is not None}
    if speeds:
        yield page.figure(
            bars(
                dict(list(speeds.items())[:12]),
                "judgements an hour",
                "of looking, by Label Studio's clock",
                share=False,
            ),
            "How fast people judge.",
        )
    rows = [
        (
            _person(one.judge),
            f"{one.judgements:,}",
            "not known" if one.hours is None else f"{one.hours:.2f}",
            "–" if one.per_hour is None else f"{one.per_hour:,.0f}",
            "–" if one.median_seconds is None else f"{one.median_seconds:.1f}",
        )
        for one in work
    ]
    yield page.table(("person", "judgements", "hours", "an hour", "median seconds"), rows, (1, 2, 3, 4))


def _person(judge: str) -> str:
    return f"person {judge.partition(':')[2]}"


def _epochs_table(epochs: Sequence[EpochHistory]) -> str:
    header = (
        *("epoch", "judgements", "pairs", "ties", "marked", "agreement", "Krippendorff's α", "known answers right"),
        *("steps", "loss", "accuracy", "seal"),
    )
    rows = [
        (
            str(epoch.number),
            f"{len(epoch.judgements):,}",
            f"{epoch.data.get('data/pairs', 0):,.0f}",
            *(f"{epoch.data[name]:{form}}" if name in epoch.data else "–" for name, form in SHOWN_OF_JUDGEMENTS),
            str(max(map(len, epoch.trained.values()), default=0)),
            f"{np.mean(losses):.4f}" if (losses := epoch.trained.get("train/loss")) else "–",
            f"{np.mean(accuracy):.0%}" if (accuracy := accuracy_of(epoch)) else "–",
            f"{epoch.seal[:12]}…",
        )
        for epoch in epochs
    ]
    # A programme's judgements have no agreement, a comparison has no marks: a column of dashes tells nothing.
    told = [place for place in range(len(header)) if any(row[place] != "–" for row in rows)]
    return page.table(
        [header[place] for place in told], [[row[place] for place in told] for row in rows], range(len(told) - 1)
    )


def _facts(context: EpochContext, epochs: Sequence[EpochHistory]) -> Iterator[tuple[str, str]]:
    configuration, info = context.configuration, context.run.info
    frozen = trained_configuration(epochs[-1])
    sampling = configuration.sampling
    yield "run folder", run_folder(configuration)
    yield "run id", info["run_id"]
    model, commit = base_model(context)
    yield "base model", f"{model} at {commit}" if commit else model
    yield "its digest", info["model_digest"]
    yield "configuration digest", trained_digest(epochs[-1])
    yield (
        "sampling",
        f"T {sampling.num_inference_steps}, η {sampling.eta:g}, w {sampling.guidance_scale:g}, k {sampling.group_size}",
    )
    yield (
        "LoRA",
        f"rank {configuration.lora.rank}, alpha {configuration.lora.alpha:g}, {', '.join(configuration.lora.target_modules)}",
    )
    for section in ("objective", "training"):
        said = [
            f"{name.partition('.')[2]} {value}"
            for name, value in frozen.items()
            if name.startswith(f"{section}.") and value is not None
        ]
        yield section, ", ".join(said)
    yield "seed", str(configuration.seed)
    yield "last seal", epochs[-1].seal
    yield "TensorBoard", f"tensorboard --logdir {run_folder(configuration)}/report/tensorboard"
