"""Which epoch a flow run means, and whether another flow run has it already.

A flow run binds its id to an epoch before anything else: a retry or a resumption goes on with that epoch and never
starts the next. Correctness does not rest on it (markers are exclusive); it saves people from judging twice.
"""

from prefect.client.schemas.objects import StateType

from flows.flow_runs import bound_flow_runs
from storage.run import Run

__all__ = ["BoundElsewhere", "bind_epoch"]


class BoundElsewhere(Exception):
    """Another flow run works on, or waits for people on, this epoch."""


def bind_epoch(run: Run, flow_run_id: str) -> int:
    """The epoch that this flow run means, bound to it.

    The bound one if there is one; else the lowest that is not sealed; else the next.

    Raises:
        BoundElsewhere: The epoch's last other flow run is alive or suspended; the message names it.
    """
    number = run.binding(flow_run_id)
    if number is None:
        number = next((n for n in run.epochs() if run.epoch(n).seal() is None), len(run.epochs()))
    if run.epoch(number).seal() is not None:
        return number
    # First bind, then look: of two that start at once, the one that bound later sees the other.
    if [bound["flow_run_id"] for bound in run.bindings(number)[-1:]] != [flow_run_id]:
        run.bind(flow_run_id, number)
    _refuse_if_taken(run, flow_run_id, number)
    return number


def _refuse_if_taken(run: Run, flow_run_id: str, number: int) -> None:
    order = [bound["flow_run_id"] for bound in run.bindings(number)]
    last = {id: place for place, id in enumerate(order)}
    for other in bound_flow_runs(run, number):
        if other.id == flow_run_id:
            continue
        if other.kind is StateType.PAUSED:
            raise BoundElsewhere(
                f"epoch {number} already waits for people in flow run {other.name} ({other.id}), which goes on by "
                f"itself\n  next: d3po status {run.location} shows what is missing; d3po proceed {run.location} --reason … "
                "goes on with what there is"
            )
        # On a disk the lock decides, which the kernel frees when its holder dies. On S3 the one that bound earlier goes
        # on: if each gave way to the other, nobody would.
        earlier = last[other.id] < last[flow_run_id]
        if other.kind in (StateType.RUNNING, StateType.PENDING) and earlier and not run.has_lock:
            raise BoundElsewhere(
                f"epoch {number} is being worked on by flow run {other.name} ({other.id}, {other.state})\n"
                f"  next: wait for it, or, if its machine is gone, d3po recover {run.location}"
            )
