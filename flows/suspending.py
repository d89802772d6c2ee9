"""How an outermost flow run waits for people: suspended where a deployment can resume it, else ended with a word."""

from uuid import uuid4

from prefect import get_run_logger
from prefect.flow_runs import suspend_flow_run
from prefect.runtime import deployment
from prefect.states import Completed, State

from flows.epoch_run import WaitingForPeople

__all__ = ["WAITING", "wait_for_people"]

WAITING = "WaitingForPeople"
"""The state name of a flow run that ended because it could not be suspended (``d3po run --here``)."""


def wait_for_people(waiting: WaitingForPeople) -> State:
    """Suspend this flow run, which does not return; or the state to end with, where nothing could resume it."""
    get_run_logger().info("%s", waiting)
    if deployment.id is None:
        return Completed(name=WAITING, message=str(waiting))
    # A fresh key: with the default one a retried run would walk through this gate unasked.
    suspend_flow_run(key=f"annotate-{uuid4()}", timeout=None)
    return Completed(message="resumed")
