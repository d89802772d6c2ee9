"""Prefect's worker, as the tests wait for it."""

from prefect.events.filters import EventFilter, EventNameFilter, EventRelatedFilter

from tests.support.project import Project, until


def await_last_word(project: Project, flow_run_id: str) -> None:
    """Until the worker has nothing left to say of a flow run whose process has ended.

    A crash is reported twice, by Prefect's runner and then by the worker: the later report undoes a retry that came in
    between. After it the worker emits an event.
    """
    until(lambda: _has_executed(project, flow_run_id), 300, "the worker's last word", every=0.5)


def _has_executed(project: Project, flow_run_id: str) -> bool:
    from flows.flow_runs import prefect_client

    wanted = EventFilter(
        event=EventNameFilter(name=["prefect.worker.executed-flow-run"]),
        related=EventRelatedFilter(id=[f"prefect.flow-run.{flow_run_id}"]),
    )
    with project.entered(), prefect_client() as client:
        return bool(client.read_events(wanted, limit=1).events)
