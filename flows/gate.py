"""The flow ``gate``: looks at every suspended epoch and resumes those whose judgements are complete.

It looks at levels, not at events: a beat that is missed, or that fails on one run, loses nothing.
"""

from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType

from storage.errors import StorageError
from tasks.artifacts import publish_progress
from tasks.config import load_configuration
from tasks.context import EpochContext, open_run, planned_context
from tasks.errors import UserError
from tasks.label_studio.errors import LabelStudioError
from tasks.pull import labels_complete, labels_progress

__all__ = ["WAITING_FLOWS", "check_suspended", "gate", "suspended_runs"]

WAITING_FLOWS = ["epoch"]
"""The flows whose runs wait for people."""


@flow(name="gate", persist_result=False)
def gate() -> int:
    """Resume each suspended epoch whose judgements are complete; returns how many."""
    resumed, problems = check_suspended(get_run_logger().info)
    if problems:
        raise UserError("\n".join(problems), remedy="d3po status RUN_FOLDER")
    return len(resumed)


def suspended_runs() -> list[FlowRun]:
    """Every flow run that is suspended in a flow that waits for people."""
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=WAITING_FLOWS)),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
            ),
        )


def check_suspended(say=print) -> tuple[list[UUID], list[str]]:
    """Look at each suspended run once.

    Returns:
        The flow runs that were resumed, and what stood in the way of looking at others.
    """
    resumed, problems = [], []
    for flow_run in suspended_runs():
        try:
            context = _context(flow_run)
            progress = labels_progress(context)
            publish_progress(context, progress)
            if labels_complete(context, progress):
                _resume(flow_run.id)
                resumed.append(flow_run.id)
                say(f"{flow_run.name}: complete, resumed")
            else:
                say(f"{flow_run.name}: {len(progress.open)} groups open")
        except (UserError, StorageError, LabelStudioError) as error:
            problems.append(f"{flow_run.name}: {error}")
    return resumed, problems


def _context(flow_run: FlowRun) -> EpochContext:
    parameters = flow_run.parameters
    configuration = load_configuration(parameters["config"], parameters.get("overrides") or ())
    run = open_run(configuration)
    number = run.binding(str(flow_run.id))
    if number is None:
        raise UserError("is suspended but bound to no epoch", remedy=f"prefect flow-run cancel {flow_run.id}")
    return planned_context(configuration, run, number)


def _resume(flow_run_id: UUID) -> None:
    with get_client(sync_client=True) as client:
        client.resume_flow_run(flow_run_id)
