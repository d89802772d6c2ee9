"""``d3po init``, ``plan``, ``run``, ``experiment``, ``status``, ``recover`` and ``schema``: a run and its epochs, from the configuration on."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from flows.selected import WITH_OVERRIDES, ConfigArgument, EpochOption, RunArgument, selected_context
from flows.terminal import console, print_table

if TYPE_CHECKING:
    from prefect.states import State

__all__ = ["verbs"]

verbs = typer.Typer()

PANEL = "Runs and epochs"

WAITS_FOR_PEOPLE = 75
"""Exit status of ``run --here`` when people have to judge (EX_TEMPFAIL: try again later)."""

HereOption = Annotated[bool, typer.Option("--here", help="In this process; status 75 when people have to judge.")]


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
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


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def plan(context: typer.Context, config: ConfigArgument) -> None:
    """What an epoch will cost: evaluations, megabytes, judgements, and (from a few timed steps) time."""
    from flows.cost_card import cost_card
    from tasks.config_reading import load_configuration

    print_table((), cost_card(load_configuration(config, context.args)))
    console.print(f"next: d3po init {config}")


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def run(
    context: typer.Context,
    config: ConfigArgument,
    here: HereOption = False,
    retrain: Annotated[bool, typer.Option("--retrain", help="Begin a new training attempt.")] = False,
) -> None:
    """Run the next epoch, or go on with the one that is not sealed."""
    if here:
        from flows.epoch import epoch

        raise typer.Exit(_run_here(lambda: epoch(config, context.args, retrain, return_state=True)))
    _submit("epoch/epoch", config, context.args, retrain=retrain)


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def experiment(
    context: typer.Context,
    config: ConfigArgument,
    here: HereOption = False,
) -> None:
    """Run epochs, with the waits for people, until there are experiment.epochs, or experiment.target is reached."""
    if here:
        from flows.experiment import experiment as run_epochs

        raise typer.Exit(_run_here(lambda: run_epochs(config, context.args, return_state=True)))
    _submit("experiment/experiment", config, context.args)


@verbs.command(rich_help_panel=PANEL)
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
    print_status(run, run_status(configuration, opened))


@verbs.command(rich_help_panel=PANEL)
def recover(
    run: RunArgument,
    epoch: EpochOption = None,
    surely_dead: Annotated[bool, typer.Option("--surely-dead", help="For runs on S3, which have no lock.")] = False,
) -> None:
    """Mark flow runs whose process is dead as crashed, and run the epoch on."""
    from flows.flow_runs import recover as take_up

    context = selected_context(run, epoch)
    with context.run.lock_epoch(context.number):
        done = take_up(context.run, context.number, surely_dead=surely_dead)
    console.print("\n".join(done) or f"no flow run of epoch {context.number} is dead\nnext: d3po status {run}")


@verbs.command(rich_help_panel=PANEL)
def schema() -> None:
    """Every field of the configuration: type, default, when it may change, meaning."""
    from flows.schema_table import field_rows

    print_table(("field", "default", "frozen by", "meaning"), field_rows())


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
