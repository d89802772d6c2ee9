"""What an epoch did, derived from what is committed and outside the seal: pictures, figures, one page."""

import base64

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from d3po_core.stopwatch import Stopwatch
from tasks.artifacts import address_of, key
from tasks.context import EpochContext, run_folder
from tasks.evaluation.comparisons import Comparison
from tasks.evaluation.held_out import HeldOut, compare, evaluate_epoch, to_json
from tasks.exchange.export import export_into_run
from tasks.labels.pull import images_of
from tasks.log import flow_run_id, logger
from tasks.reports import page
from tasks.reports.figures import contact_sheet, png, side_by_side
from tasks.reports.history import epoch_history
from tasks.reports.plots import panels
from tasks.reports.run_report import HELD_OUT_KEPT, REPORT, held_out_key, write_run_report
from tasks.reports.training_panels import training_panels
from tasks.training.training_plan import training_plan

__all__ = ["report"]

PICTURES = {
    "before-after": "Held-out prompts before and after this epoch; the same prompt and the same noise in a column.",
    "contact-sheet": "The first images of this epoch, group by group.",
    "training-curves": "The training's metrics, by optimizer step.",
}


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def report(context: EpochContext) -> None:
    """Write ``adapter/`` and ``report/`` of the epoch and ``report/`` of the run, and show the figures on the flow run."""
    drawing = Stopwatch()
    epoch = context.epoch
    with drawing("pictures"):
        pictures = {"contact-sheet": _samples(context)}
        if trained := list(training_panels([epoch_history(context)])):
            pictures["training-curves"] = panels(trained, 3, "png")
    comparisons: list[Comparison] = []
    if context.configuration.evaluation.prompts:
        before, after, drift = evaluate_epoch(context)
        comparisons = compare(before, after)
        with drawing("pictures"):
            pictures["before-after"] = side_by_side(
                {"before": list(before.images), "after": list(after.images)}, before.prompts
            )
        epoch.write_aside(
            "report/evaluation.json", to_json(context.configuration, comparisons, before, after, drift).encode()
        )
        _keep_held_out(context, before, after)
    with drawing("pictures"):
        for name, picture in pictures.items():
            epoch.write_aside(f"report/{name}.png", picture)
        epoch.write_aside("report/report.html", _page(context, pictures, comparisons))
        export_into_run(context)  # after the evaluation, which the card's curves end with
        page_of_run = write_run_report(context)
    logger().info(
        "pictures, pages and the model card drawn in %.2f s; the run's report is %s",
        drawing.seconds["pictures"],
        page_of_run,
    )
    for comparison in comparisons:
        logger().info("%s", comparison)
    if flow_run_id() is not None:
        _publish(context, pictures, comparisons)


def _samples(context: EpochContext) -> bytes:
    """A contact sheet of the epoch's first images, group by group."""
    groups = context.groups()
    first = images_of(context, next(iter(context.plan["shards"])))
    shown = dict(list(first.items())[:32])
    return contact_sheet(list(shown.values()), [groups[id.rpartition("-")[0]].prompt for id in shown])


def _facts(context: EpochContext) -> list[tuple[str, str]]:
    epoch, seal = context.epoch, context.epoch.seal()
    statistics = training_plan(epoch, epoch.latest("train-plan"))["metrics"]
    return [
        ("run folder", run_folder(context.configuration)),
        ("epoch", str(context.number)),
        ("seal (content)", seal["digest"]),
        *((f"judgements: {name}", str(value)) for name, value in epoch.latest("pull").details.items()),
        *(
            (f"preferences: {name.partition('/')[2]}", f"{value:.4g}" if isinstance(value, float) else str(value))
            for name, value in statistics.items()
        ),
    ]


def _page(context: EpochContext, pictures: dict[str, bytes], comparisons: list[Comparison]) -> bytes:
    tiles = [
        (
            f"{item.objective.replace('_', ' ')}, change",
            f"{item.difference:+.3g}",
            f"± {item.standard_error:.2g} (paired standard error, {item.prompts} prompts)",
        )
        for item in comparisons
    ]
    shown = [
        page.section(
            name.replace("-", " ").capitalize(), page.figure(picture, name.replace("-", " "), PICTURES[name], wide=True)
        )
        for name, picture in sorted(pictures.items())
    ]
    return page.page(
        f"{context.configuration.run}, epoch {context.number}",
        " ".join(f"{item}." for item in comparisons) or _why_nothing_is_measured(context),
        [page.tiles(tiles), *shown, page.section("Facts", page.table(("", ""), _facts(context)))],
    )


def _why_nothing_is_measured(context: EpochContext) -> str:
    if context.configuration.evaluation.prompts:
        return "No objective is configured to measure the held-out images (evaluation.objectives)."
    return "No held-out prompts are configured."


def _keep_held_out(context: EpochContext, before: HeldOut, after: HeldOut) -> None:
    """The images that the run's report shows epoch by epoch; what an epoch begins with, its parent ended with."""
    kept = {"after": after} | ({"before": before} if context.number == context.run.epochs()[0] else {})
    for when, held_out in kept.items():
        for index, image in enumerate(held_out.images[:HELD_OUT_KEPT]):
            context.epoch.write_aside(held_out_key(when, index), png(image))


def _publish(context: EpochContext, pictures: dict[str, bytes], comparisons: list[Comparison]) -> None:
    folder = f"{context.epoch_key}/report"
    measured = "\n".join(f"- {comparison}" for comparison in comparisons)
    for name, picture in pictures.items():
        create_markdown_artifact(
            markdown=(
                f"{measured}\n\n![{name}](data:image/png;base64,{base64.b64encode(picture).decode()})\n\n"
                f"{_link(context, 'The whole run', f'report/{REPORT}')}; "
                f"{_link(context, 'this epoch', f'{folder}/report.html')}; "
                f"{_link(context, 'this picture', f'{folder}/{name}.png')}."
            ),
            key=key(context, name),
            description=f"{name.replace('-', ' ')} of epoch {context.number}",
        )


def _link(context: EpochContext, text: str, file: str) -> str:
    return f"{text}: [`{context.run.location}/{file}`]({address_of(context, file)})"
