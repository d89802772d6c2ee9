"""Flow runs as the operator's verbs need them: submit, find by epoch, take a dead one up again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed, Scheduled

from storage.run import Run
from tasks.errors import UserError

__all__ = [
    "EPOCH",
    "EXPERIMENT",
    "BoundFlowRun",
    "bound_flow_runs",
    "epoch_flow_runs",
    "name_flow_run",
    "prefect_client",
    "recover",
    "submit",
]

EPOCH, EXPERIMENT = "epoch/epoch", "experiment/experiment"
"""The deployments that run epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundFlowRun:
    """A flow run that was bound to an epoch, as Prefect sees it now."""

    id: str
    name: str
    kind: StateType | None
    """None where Prefect does not know the flow run (any more)."""
    state: str
    message: str


def _client() -> SyncPrefectClient:
    try:
        return get_client(sync_client=True)
    except ValueError:
        raise UserError(
            "PREFECT_API_URL is not set, expected the address of Prefect's server",
            remedy="d3po services up, or export PREFECT_API_URL=http://…/api",
        ) from None


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """A client of the configured Prefect server.

    Raises:
        UserError: It does not answer.
    """
    with _client() as client:
        try:
            yield client
        except httpx.TransportError as error:
            raise UserError(
                f"the Prefect server at {client.api_url} does not answer ({type(error).__name__})",
                remedy="d3po services up, or set PREFECT_API_URL to a running server",
            ) from None


def submit(deployment: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """A new flow run of a deployment; returns its name and id.

    Raises:
        UserError: No server, or no such deployment on it.
    """
    with prefect_client() as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            raise UserError(
                f"the Prefect server at {client.api_url} has no deployment {deployment}",
                remedy="d3po services up, or prefect --no-prompt deploy --all",
            ) from None
        created = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        return created.name, str(created.id)


def name_flow_run(flow_run_id: str, name: str) -> None:
    """Give a flow run a name that says what it works on."""
    with prefect_client() as client:
        client.update_flow_run(flow_run_id, name=name)


def bound_flow_runs(run: Run, number: int) -> list[BoundFlowRun]:
    """The flow runs of an epoch, oldest first, each once."""
    ids = dict.fromkeys(bound["flow_run_id"] for bound in run.bindings(number))
    with prefect_client() as client:
        return [_read(client, flow_run_id) for flow_run_id in ids]


def epoch_flow_runs(*kinds: StateType) -> list[FlowRun]:
    """The flow runs of ``epoch``, of any run, that are in one of these kinds of state."""
    with prefect_client() as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[name.partition("/")[0] for name in (EPOCH, EXPERIMENT)])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(kinds)))),
        )


def recover(run: Run, number: int, *, surely_dead: bool = False) -> list[str]:
    """Mark the epoch's flow runs whose process is dead as crashed, and schedule the newest of them again.

    Args:
        run: The run; on a disk the caller holds the epoch's lock, which proves that no process works on it.
        number: The epoch.
        surely_dead: The operator's word for it, where there is no lock.

    Returns:
        What was done, a line each.
    """
    dead = [
        bound
        for bound in bound_flow_runs(run, number)
        if bound.kind in (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
        and run.binding(bound.id) == number  # an experiment that has gone on to a later epoch lives
    ]
    if dead and not run.has_lock and not surely_dead:
        raise UserError(
            f"{dead[-1].name} ({dead[-1].id}) is {dead[-1].state}, and on S3 no lock tells whether its process lives",
            remedy=f"make sure that its worker is gone, then d3po recover {run.location} --surely-dead",
        )
    done = []
    with prefect_client() as client:
        for bound in dead:
            client.set_flow_run_state(bound.id, Crashed(message="its process is dead (d3po recover)"), force=True)
            done.append(f"{bound.name} ({bound.id}) was {bound.state}, is marked crashed")
        if dead and client.read_flow_run(dead[-1].id).deployment_id is None:
            # Nobody would pick it up: it was no deployment's.
            done.append(f"{dead[-1].name} was started by hand\n  next: d3po run CONFIG goes on with epoch {number}")
        elif dead:
            client.set_flow_run_state(dead[-1].id, Scheduled(message="d3po recover"), force=True)
            done.append(f"{dead[-1].name} is scheduled again and goes on with epoch {number}")
    return done


def _read(client: SyncPrefectClient, flow_run_id: str) -> BoundFlowRun:
    try:
        found = client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return BoundFlowRun(id=flow_run_id, name="(forgotten)", kind=None, state="unknown to Prefect", message="")
    state = found.state
    return BoundFlowRun(
        id=flow_run_id,
        name=found.name,
        kind=state.type if state else None,
        state=state.name if state else "unknown",
        message=(state.message or "") if state else "",
    )
