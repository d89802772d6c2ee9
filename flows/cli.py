"""``d3po``: the operator's verbs. Each prints what it found and, where something is to be done, the next command.

RUN is a run's folder as it lies there (``runs/demo``, ``s3://bucket/runs/demo``); CONFIG is a configuration file, whose
fields can be overridden by ``--section.field value``. Heavy imports wait until a verb needs them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.evaluate_commands import ab, evaluate
from flows.explain import explained
from flows.service_commands import services

__all__ = ["app", "main"]

app = typer.Typer(
    name="d3po",
    help="Fine-tune image diffusion models from human preferences: resumable, auditable epochs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(services, name="services")
app.add_typer(ab, name="ab")
console = Console(soft_wrap=True, highlight=False)

WAITS_FOR_PEOPLE = 75
"""Exit status of ``run --here`` when people have to judge (EX_TEMPFAIL: try again later)."""

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A configuration file, e.g. configs/demo.yaml.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/demo.")]
EpochOption = Annotated[int | None, typer.Option("--epoch", help="The epoch's number; the last one by default.")]
WITH_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=WITH_OVERRIDES)
def init(context: typer.Context, config: ConfigArgument) -> None:
    """Check a configuration before anything is spent, and make the run's folder."""
    from flows.preflight import preflight
    from tasks.config import load_configuration
    from tasks.context import create_run, run_folder

    configuration = load_configuration(config, context.args)
    for check in preflight(configuration):
        console.print(f"[green]ok[/] {check.what}: {check.found}")
    run_id = create_run(configuration).info["run_id"]
    console.print(f"[green]ok[/] run folder: {run_folder(configuration)} (run id {run_id})")
    console.print(f"next: d3po run {config}, or prefect deployment run epoch/epoch -p config={config}")


@app.command(context_settings=WITH_OVERRIDES)
def plan(context: typer.Context, config: ConfigArgument) -> None:
    """What an epoch will cost: evaluations, megabytes, judgements, and (from a few timed steps) time."""
    from flows.cost_card import cost_card
    from tasks.config import load_configuration

    table = Table(box=None, pad_edge=False, show_header=False)
    for row in cost_card(load_configuration(config, context.args)):
        table.add_row(*row)
    console.print(table)
    console.print(f"next: d3po init {config}")


@app.command(context_settings=WITH_OVERRIDES)
def run(
    context: typer.Context,
    config: ConfigArgument,
    here: Annotated[bool, typer.Option("--here", help="In this process; status 75 when people have to judge.")] = False,
    retrain: Annotated[bool, typer.Option("--retrain", help="Begin a new training attempt.")] = False,
) -> None:
    """Run the next epoch, or go on with the one that is not sealed."""
    from flows.flow_runs import submit
    from tasks.config import load_configuration
    from tasks.context import run_folder

    folder = run_folder(load_configuration(config, context.args))
    if here:
        raise typer.Exit(_run_here(config, context.args, retrain))
    name, flow_run_id = submit(config, context.args, retrain)
    console.print(f"flow run {name} ({flow_run_id}) is submitted\nnext: d3po status {folder}")


@app.command()
def status(
    run: RunArgument,
    wait_for: Annotated[
        str | None, typer.Option("--wait-for", metavar="people|seal", help="Wait until it needs people, or is sealed.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 600.0,
) -> None:
    """Where a run stands: epochs × stages, judgements per person, what waits for whom, the next command."""
    from flows.status import run_status, wait_until
    from flows.status_table import print_status
    from tasks.context import found_run

    configuration, opened = found_run(run)
    if wait_for is not None:
        wait_until(configuration, opened, wait_for, timeout)
    print_status(console, run, run_status(configuration, opened))


@app.command()
def annotate(
    run: RunArgument,
    simulate: Annotated[bool, typer.Option("--simulate", help="Let a programmed objective judge.")] = False,
    epoch: EpochOption = None,
    objective: Annotated[
        str | None, typer.Option(help="What the judges prefer by; the configured one by default.")
    ] = None,
    error_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of answers given the wrong way.")] = 0.1,
    judges: Annotated[int, typer.Option(min=1, help="Distinct users; at least the judgements a group wants.")] = 1,
    wait: Annotated[float, typer.Option(help="Seconds to wait until an epoch needs people.")] = 0.0,
) -> None:
    """Show where people judge, or (--simulate) judge by an objective through Label Studio's API."""
    from flows.gate import check_suspended
    from flows.status import wait_until
    from tasks.annotate import simulate_annotators
    from tasks.context import found_run
    from tasks.push import pushed

    if wait:
        wait_until(*found_run(run), "people", wait)
    context = _pushed_context(run, epoch)
    if not simulate:
        console.print(f"people judge at {pushed(context)['url']}")
        return
    objective = objective or context.configuration.labels.objective
    left = simulate_annotators(context, objective=objective, error_rate=error_rate, judges=judges)
    console.print(
        f"{sum(left.values())} annotations by {len(left)} simulated judges ({objective}, error rate {error_rate:g})"
    )
    _, problems = check_suspended(console.print)
    for problem in problems:
        console.print(problem)


@app.command()
def proceed(
    run: RunArgument, reason: Annotated[str, typer.Option(help="Why, for the record.")], epoch: EpochOption = None
) -> None:
    """Go on with the judgements there are; who said so, when, and the counts are written down."""
    import getpass

    from flows.gate import check_suspended
    from tasks.pull import labels_progress

    context = _pushed_context(run, epoch)
    done = labels_progress(context)
    context.epoch.note(
        "proceed",
        {
            "by": getpass.getuser(),
            "reason": reason,
            "settled": len(done.settled),
            "open": len(done.open),
            "given": done.given,
        },
    )
    console.print(f"epoch {context.number} goes on with {done.given} judgements; {len(done.open)} groups stay open")
    _, problems = check_suspended(console.print)
    for problem in problems:
        console.print(problem)


@app.command()
def repush(run: RunArgument, epoch: EpochOption = None) -> None:
    """Make a deleted Label Studio project again; people judge anew."""
    from tasks.push import import_comparisons, pushed

    context = _pushed_context(run, epoch)
    with context.run.lock(f"epoch-{context.number:04d}"):
        import_comparisons(context, supersede=True)
    console.print(f"people judge at {pushed(context)['url']}")


@app.command()
def audit(
    what: Annotated[str, typer.Argument(metavar="RUN|ADAPTER", help="A run's folder or an exported adapter.")],
    moved_to: Annotated[str | None, typer.Option(help="Where the adapter's run lies now, if it was moved.")] = None,
) -> None:
    """Follow an adapter to every judgement, seed and digest behind it; exit 1 on the first mismatch."""
    from tasks.audit import audit as follow

    for line in follow(what, moved_to):
        console.print(line)
    console.print("[green]everything agrees[/]")


@app.command(context_settings=WITH_OVERRIDES)
def heal(context: typer.Context, run: RunArgument, epoch: EpochOption = None) -> None:
    """Make damaged or missing shards again, into a new attempt."""
    from tasks.heal import heal as make_again

    broken = _context(run, epoch, overrides=context.args)
    healed = False
    with broken.run.lock(f"epoch-{broken.number:04d}"):
        for line in make_again(broken):
            console.print(line)
            healed = True
    if not healed:
        console.print("nothing is damaged")


@app.command()
def recover(
    run: RunArgument,
    epoch: EpochOption = None,
    surely_dead: Annotated[bool, typer.Option("--surely-dead", help="For runs on S3, which have no lock.")] = False,
) -> None:
    """Mark flow runs whose process is dead as crashed, and run the epoch on."""
    from flows.flow_runs import recover as take_up

    context = _context(run, epoch)
    with context.run.lock(f"epoch-{context.number:04d}"):
        done = take_up(context.run, context.number, surely_dead=surely_dead)
    console.print("\n".join(done) or f"no flow run of epoch {context.number} is dead\nnext: d3po status {run}")


@app.command()
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
    from tasks.export import export_adapter, export_merged
    from tasks.export_preferences import export_preferences

    context = _context(run, epoch, sealed=True)
    if preferences is not None:
        file, rows = export_preferences(context, folder, preferences)
        console.print(
            f"preferences: {file} ({rows} rows)\nnext: datasets.load_dataset('parquet', data_files={str(file)!r})"
        )
    elif merged:
        written = export_merged(context, folder)
        console.print(f"pipeline: {written}\nnext: StableDiffusionPipeline.from_pretrained({str(written)!r})")
    else:
        written = export_adapter(context, folder)
        console.print(f"adapter: {written}\nnext: pipe.load_lora_weights({str(written)!r})")


@app.command("import", context_settings=WITH_OVERRIDES)
def import_(
    context: typer.Context,
    config: ConfigArgument,
    file: Annotated[Path, typer.Argument(metavar="PARQUET", help="Columns caption, jpg_0, jpg_1, label_0, label_1.")],
) -> None:
    """Make the next epoch of a run from judged image pairs, as in Pick-a-Pic: images without trajectories."""
    from tasks.config import load_configuration
    from tasks.import_preferences import import_preferences

    done = import_preferences(load_configuration(config, context.args), file)
    console.print(
        f"epoch {done.epoch}: {done.groups} image pairs, {done.judgements} judgements, of {done.rows} rows; images resized to "
        f"{done.width} × {done.height} pixels, cropped around their middle where their shape differed"
    )
    for reason, count in done.set_aside.items():
        console.print(f"set aside: {count} rows: {reason}")
    console.print(f"next: d3po run {config}, with an objective that needs no trajectories")


@app.command(context_settings=WITH_OVERRIDES)
def report(context: typer.Context, run: RunArgument, epoch: EpochOption = None) -> None:
    """Where an epoch's adapter, pictures and report are, and what was measured."""
    from flows.report_command import describe

    for line in describe(_context(run, epoch, sealed=True, overrides=context.args)):
        console.print(line)


app.command(context_settings=WITH_OVERRIDES)(evaluate)


@app.command()
def schema() -> None:
    """Every field of the configuration: type, default, when it may change, meaning."""
    from flows.schema_table import field_rows

    table = Table("field", "default", "frozen by", "meaning", box=None, pad_edge=False)
    for row in field_rows():
        table.add_row(*row)
    console.print(table)


def _run_here(config: str, overrides: list[str], retrain: bool) -> int:
    from flows.flow_runs import prefect_client

    with prefect_client() as client:
        client.hello()

    from flows.epoch import WAITING, epoch

    state = epoch(config, overrides, retrain, return_state=True)
    if state.name == WAITING:
        console.print(f"{state.message}\nnext: judge, then run the same command again")
        return WAITS_FOR_PEOPLE
    if state.is_cancelled():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    if not state.is_completed():
        state.result()
    return 0


def _context(run: str, epoch: int | None, sealed: bool = False, overrides: Sequence[str] = ()):
    from tasks.config import load_configuration
    from tasks.context import found_run, planned_context
    from tasks.errors import UserError

    configuration, opened = found_run(run)
    configuration = load_configuration(configuration, overrides)
    numbers = [n for n in opened.epochs() if not sealed or opened.epoch(n).seal() is not None]
    if not numbers or (epoch is not None and epoch not in numbers):
        wanted = "an epoch" if epoch is None else f"epoch {epoch}"
        raise UserError(
            f"{run} has no {'sealed ' if sealed else ''}{wanted.removeprefix('an ')}; it has {numbers or 'none'}",
            remedy=f"d3po status {run}",
        )
    return planned_context(configuration, opened, numbers[-1] if epoch is None else epoch)


def _pushed_context(run: str, epoch: int | None):
    from tasks.errors import UserError

    context = _context(run, epoch)
    if context.epoch.latest("push") is None:
        raise UserError(
            f"epoch {context.number} of {run} has nothing in Label Studio yet",
            remedy=f"d3po status {run} --wait-for people",
        )
    return context


def main() -> None:
    """The entry point: a user's mistake is explained, never shown as a stack trace."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING" if "--here" not in sys.argv else "INFO")
    # Without an address Prefect would start a server of its own for a moment, and nothing would find its runs again.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")
    from flows.service_settings import load_environment

    load_environment()
    with explained():
        app()


if __name__ == "__main__":
    main()
