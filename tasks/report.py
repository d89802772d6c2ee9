"""What an epoch did, derived from what is committed and outside the seal: pictures, figures, one page."""

import base64
import html
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from d3po_core.stopwatch import Stopwatch
from storage.tables import METRICS, read_table
from tasks.artifacts import key
from tasks.context import EpochContext, run_folder
from tasks.evaluation import Comparison, compare, evaluate_epoch, to_json
from tasks.export import export_into_run
from tasks.figures import contact_sheet, side_by_side, training_curves
from tasks.log import flow_run_id, logger
from tasks.pull import images_of
from tasks.training_plan import training_plan

__all__ = ["report"]


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def report(context: EpochContext) -> None:
    """Write ``adapter/`` and ``report/`` into the epoch's folder and show the figures on the flow run."""
    export_into_run(context)
    drawing = Stopwatch()
    epoch = context.epoch
    metrics = read_table(epoch.fetch(epoch.latest("train"), "metrics.parquet"), METRICS)
    with drawing("pictures"):
        pictures = {"contact-sheet": _samples(context)}
        if len(metrics):
            pictures["training-curves"] = training_curves(metrics)
    comparisons: list[Comparison] = []
    if context.configuration.evaluation.prompts:
        before, after = evaluate_epoch(context)
        comparisons = compare(before, after)
        with drawing("pictures"):
            pictures["before-after"] = side_by_side(
                {"before": list(before.images), "after": list(after.images)}, before.prompts
            )
        epoch.write_aside("report/evaluation.json", to_json(comparisons, before, after).encode())
    logger().info("pictures drawn in %.2f s", drawing.seconds["pictures"])
    for name, png in pictures.items():
        epoch.write_aside(f"report/{name}.png", png)
    epoch.write_aside("report/report.html", _page(context, pictures, comparisons).encode())
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


def _page(context: EpochContext, pictures: dict[str, bytes], comparisons: list[Comparison]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in _facts(context)
    )
    measured = "".join(f"<p class=measured>{html.escape(str(item))}</p>" for item in comparisons)
    shown = "".join(
        f"<h2>{name.replace('-', ' ')}</h2><img src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
        for name, png in sorted(pictures.items())
    )
    title = f"{context.configuration.run}, epoch {context.number}"
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{measured}{shown}<h2>facts</h2><table>{rows}</table>"
    )


def _publish(context: EpochContext, pictures: dict[str, bytes], comparisons: list[Comparison]) -> None:
    folder = Path(run_folder(context.configuration), context.epoch_key, "report")
    measured = "\n".join(f"- {comparison}" for comparison in comparisons)
    for name, png in pictures.items():
        create_markdown_artifact(
            markdown=(
                f"{measured}\n\n![{name}](data:image/png;base64,{base64.b64encode(png).decode()})\n\n"
                f"Also in `{folder / name}.png`; the whole report is `{folder}/report.html`."
            ),
            key=key(context, name),
            description=f"{name.replace('-', ' ')} of epoch {context.number}",
        )


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#222}
img{max-width:100%;border:1px solid #ddd}table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .8rem .2rem 0;
border-bottom:1px solid #eee;font-weight:normal}td{font-family:ui-monospace,monospace;overflow-wrap:anywhere}
.measured{background:#f2f7f2;padding:.6rem 1rem;border-left:4px solid #4a4}"""
