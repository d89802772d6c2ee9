"""The flow ``gate``: looks at every suspended epoch and resumes those whose judgements are complete.

It looks at levels, not at events: a beat that is missed, or that fails on one run, loses nothing.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import FlowRun, StateType

from flows.flow_runs import epoch_flow_runs, prefect_client
from tasks.errors import UserError

if TYPE_CHECKING:
    from tasks.context import EpochContext

__all__ = ["check_suspended", "gate"]


@flow(name="gate", persist_result=False)
def gate() -> int:
    """Resume each suspended epoch whose judgements are complete; returns how many."""
    resumed, problems = check_suspended(get_run_logger().info)
    if problems:
        raise UserError("\n".join(problems), remedy="d3po status RUN_FOLDER")
    return len(resumed)


def check_suspended(say=print) -> tuple[list[UUID], list[str]]:
    """Look at each suspended run once.

    Returns:
        The flow runs that were resumed, and what stood in the way of looking at others.
    """
    resumed: list[UUID] = []
    problems: list[str] = []
    suspended = epoch_flow_runs(StateType.PAUSED)
    if not suspended:
        return resumed, problems
    # Not before: importing what it takes to look costs more than a minute's look that finds nobody waiting.
    from tasks.artifacts import publish_progress
    from tasks.labels.first_look import too_few_answers
    from tasks.labels.pull import labels_complete, labels_progress

    for flow_run in suspended:
        try:
            context = _context(flow_run)
            if (answers := too_few_answers(context, datetime.now(UTC))) is not None:
                say(f"{flow_run.name}: {answers.given} answers, at least {answers.needed} needed")
                continue
            progress = labels_progress(context)
            publish_progress(context, progress, str(flow_run.id))
            say(f"{flow_run.name}: {progress.given} of {progress.needed} judgements, {len(progress.open)} groups open")
            if labels_complete(context, progress):
                with context.run.lock_epoch(context.number):  # whoever mends the epoch ends first
                    _resume(flow_run.id)
                resumed.append(flow_run.id)
                say(f"{flow_run.name}: resumed")
        except Exception as error:  # one run's trouble, of whatever kind, must not keep the others waiting
            problems.append(f"{flow_run.name}: {error if str(error) else repr(error)}")
    return resumed, problems


def _context(flow_run: FlowRun) -> "EpochContext":
    from tasks.config_reading import load_configuration
    from tasks.context import open_run, planned_context

    parameters = flow_run.parameters
    configuration = load_configuration(parameters["config"], parameters.get("overrides") or ())
    run = open_run(configuration)
    number = run.binding(str(flow_run.id))
    if number is None:
        raise UserError(
            f"is suspended, but bound to no epoch of run {configuration.run}, which {parameters['config']} names now",
            remedy=f"put the run's name back into that file; or prefect flow-run cancel {flow_run.id}",
        )
    return planned_context(configuration, run, number)


def _resume(flow_run_id: UUID) -> None:
    with prefect_client() as client:
        client.resume_flow_run(flow_run_id)
