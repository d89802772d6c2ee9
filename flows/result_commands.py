"""``d3po report``, ``compare``, ``fork``, ``export`` and ``import``: what came out, and what goes from one run to another."""

from pathlib import Path
from typing import Annotated

import typer

from flows.selected import WITH_OVERRIDES, ConfigArgument, EpochOption, RunArgument, selected_context
from flows.terminal import console, print_table

__all__ = ["verbs"]

verbs = typer.Typer()

PANEL = "Results"
NO_TARGET = ("--experiment.target", "null", "--experiment.target_objective", "null")


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def report(context: typer.Context, run: RunArgument, epoch: EpochOption = None) -> None:
    """Where an epoch's adapter, pictures and report are, and what was measured; with --evaluation options, anew."""
    from flows.report_command import describe

    remeasured = any(word.startswith("--evaluation.") for word in context.args)
    # Whatever is measured now, the experiment's target need not be among it.
    overrides = [*context.args, *NO_TARGET] if remeasured else context.args
    for line in describe(selected_context(run, epoch, sealed=True, overrides=overrides), anew=remeasured):
        console.print(line)


@verbs.command(rich_help_panel=PANEL)
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, forks of one another or not.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also draw each objective as SVG.")] = None,
) -> None:
    """Several runs in one table: what they were trained with, and what the held-out objectives gained."""
    from flows.comparison import COLUMNS, compared, draw

    found = compared(runs)
    print_table(COLUMNS, (one.row for one in found))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for objective, svg in draw(found).items():
            (out / f"{objective}.svg").write_bytes(svg)
            console.print(f"drawn: {out / objective}.svg")


@verbs.command(rich_help_panel=PANEL)
def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    epoch: EpochOption = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="The whole pipeline, the adapter inside its weights.")
    ] = False,
    preferences: Annotated[
        str | None,
        typer.Option(metavar="pickapic|chosen", help="What was judged, as a data set: up to this epoch; no adapter."),
    ] = None,
) -> None:
    """Write an epoch's adapter as plain diffusers loads it, with its model card and provenance; or what was judged."""
    context = selected_context(run, epoch, sealed=True)
    if preferences is not None:
        from tasks.exchange.export_preferences import export_preferences

        file, rows = export_preferences(context, folder, preferences)
        console.print(
            f"preferences: {file} ({rows} rows)\nnext: datasets.load_dataset('parquet', data_files={str(file)!r})"
        )
        return
    from tasks.exchange.export import export_adapter, export_merged

    if merged:
        written = export_merged(context, folder)
        console.print(f"pipeline: {written}\nnext: StableDiffusionPipeline.from_pretrained({str(written)!r})")
    else:
        written = export_adapter(context, folder)
        console.print(f"adapter: {written}\nnext: pipe.load_lora_weights({str(written)!r})")


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def fork(
    context: typer.Context,
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new run's name; its folder lies beside RUN.")],
    epoch: EpochOption = None,
) -> None:
    """A new run from a judged epoch's pictures and judgements, to be trained with other training fields."""
    from tasks.context import run_folder
    from tasks.exchange.fork import fork as make_fork

    made = make_fork(run, name, epoch, context.args)
    folder = run_folder(made.configuration)
    console.print(f"{folder}: epoch {made.number} of {run}, judged, to be trained anew\nnext: d3po run {folder}")


@verbs.command("import", rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def import_(
    context: typer.Context,
    config: ConfigArgument,
    file: Annotated[Path, typer.Argument(metavar="PARQUET", help="Columns caption, jpg_0, jpg_1, label_0, label_1.")],
) -> None:
    """Make the next epoch of a run from judged image pairs, as in Pick-a-Pic: images without trajectories."""
    from tasks.config_reading import load_configuration
    from tasks.exchange.import_preferences import import_preferences

    done = import_preferences(load_configuration(config, context.args), file)
    console.print(
        f"epoch {done.epoch}: {done.groups} image pairs, {done.judgements} judgements, of {done.rows} rows; images resized to "
        f"{done.width} × {done.height} pixels, cropped around their middle where their shape differed"
    )
    for reason, count in done.set_aside.items():
        console.print(f"set aside: {count} rows: {reason}")
    console.print(f"next: d3po run {config}, with an objective that needs no trajectories")
