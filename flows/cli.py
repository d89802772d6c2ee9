"""``d3po``: the operator's verbs. Each prints what it found and, where something is to be done, the next command.

RUN is a run's folder as it lies there (``runs/demo``, ``s3://bucket/runs/demo``); CONFIG is a configuration file or a
run's folder, for the configuration that it was made with; its fields can be overridden by ``--section.field value``. Heavy imports wait until a verb needs them.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.evaluate_commands import ab, evaluate
from flows.explain import explained
from flows.selected import EpochOption, RunArgument, pushed_context, selected_context
from flows.service_commands import services
from flows.team_commands import VERBS

if TYPE_CHECKING:
    from prefect.states import State

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

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A configuration file (configs/demo.yaml), or a run's folder.")
]
WITH_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=WITH_OVERRIDES)
def init(context: typer.Context, config: ConfigArgument) -> None:
    """Check a configuration before anything is spent, and make the run's folder."""
    from flows.preflight import preflight
    from tasks.config_reading import load_configuration
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
    from tasks.config_reading import load_configuration

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
    if here:
        from flows.epoch import epoch

        raise typer.Exit(_run_here(lambda: epoch(config, context.args, retrain, return_state=True)))
    _submit("epoch/epoch", config, context.args, retrain=retrain)


@app.command(context_settings=WITH_OVERRIDES)
def experiment(
    context: typer.Context,
    config: ConfigArgument,
    here: Annotated[bool, typer.Option("--here", help="In this process; status 75 when people have to judge.")] = False,
) -> None:
    """Run epochs, with the waits for people, until there are experiment.epochs, or experiment.target is reached."""
    if here:
        from flows.experiment import experiment as run_epochs

        raise typer.Exit(_run_here(lambda: run_epochs(config, context.args, return_state=True)))
    _submit("experiment/experiment", config, context.args)


@app.command(context_settings=WITH_OVERRIDES)
def fork(
    context: typer.Context,
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new run's name; its folder lies beside RUN.")],
    epoch: EpochOption = None,
) -> None:
    """A new run from a judged epoch's pictures and judgements, to be trained with other training fields."""
    from tasks.context import run_folder
    from tasks.fork import fork as make_fork

    made = make_fork(run, name, epoch, context.args)
    folder = run_folder(made.configuration)
    console.print(f"{folder}: epoch {made.number} of {run}, judged, to be trained anew\nnext: d3po run {folder}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, forks of one another or not.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also draw each objective as SVG.")] = None,
) -> None:
    """Several runs' last sealed epochs in one table: what they were trained with, and the held-out objectives."""
    from flows.comparison import COLUMNS, compared, draw

    found = compared(runs)
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for one in found:
        table.add_row(*one.row)
    console.print(table)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for objective, svg in draw(found).items():
            (out / f"{objective}.svg").write_bytes(svg)
            console.print(f"drawn: {out / objective}.svg")


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
    simulate: Annotated[bool, typer.Option("--simulate", help="Let programmed objectives judge.")] = False,
    epoch: EpochOption = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="What the judges prefer by (may be repeated); the configured ones by default."),
    ] = None,
    error_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of answers given the wrong way.")] = 0.1,
    bias: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of groups answered left without a look; mark: from half to all of the images. "
            "Once for all judges, or once each.",
        ),
    ] = None,
    judges: Annotated[int, typer.Option(min=1, help="Distinct users; at least the judgements a group wants.")] = 1,
    wait: Annotated[float, typer.Option(help="Seconds to wait until an epoch needs people.")] = 0.0,
) -> None:
    """Show where people judge, or (--simulate) judge by objectives through Label Studio's API."""
    from d3po_core.programmed.judges import expected_accuracy
    from flows.gate import check_suspended
    from flows.status import wait_until
    from tasks.annotate import simulate_annotators
    from tasks.context import found_run
    from tasks.push import pushed

    if wait:
        wait_until(*found_run(run), "people", wait)
    context = pushed_context(run, epoch)
    if not simulate:
        console.print(f"people judge at {pushed(context)['url']}")
        return
    objectives, biases = objective or context.configuration.labels.objectives, bias or [0.0]
    left = simulate_annotators(context, objectives=objectives, error_rate=error_rate, judges=judges, biases=biases)
    stated = f"{', '.join(objectives)}, error rate {error_rate:g}"
    if any(biases):
        stated += f", bias {', '.join(f'{one:g}' for one in biases)}"
    right = ", ".join(f"{100 * expected_accuracy(error_rate, one):.3g}" for one in biases)
    console.print(
        f"{sum(left.values())} annotations by {len(left)} simulated judges ({stated}); "
        f"of 100 answers {right} are expected to be right"
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

    context = pushed_context(run, epoch)
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

    context = pushed_context(run, epoch)
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

    broken = selected_context(run, epoch, overrides=context.args)
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

    context = selected_context(run, epoch)
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

    context = selected_context(run, epoch, sealed=True)
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
    from tasks.config_reading import load_configuration
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

    for line in describe(selected_context(run, epoch, sealed=True, overrides=context.args)):
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


for verb in VERBS:
    app.command()(verb)


def _submit(deployment: str, config: str, overrides: list[str], **parameters: object) -> None:
    from flows.flow_runs import submit
    from tasks.config_reading import load_configuration
    from tasks.context import run_folder

    folder = run_folder(load_configuration(config, overrides))
    name, flow_run_id = submit(deployment, {"config": config, "overrides": overrides, **parameters})
    console.print(f"flow run {name} ({flow_run_id}) is submitted\nnext: d3po status {folder}")


def _run_here(flow: Callable[[], "State"]) -> int:
    from flows.flow_runs import prefect_client
    from flows.suspending import WAITING

    with prefect_client() as client:
        client.hello()
    state = flow()
    if state.name == WAITING:
        console.print(f"{state.message}\nnext: judge, then run the same command again")
        return WAITS_FOR_PEOPLE
    if state.is_cancelled():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    if not state.is_completed():
        state.result()
    return 0


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
