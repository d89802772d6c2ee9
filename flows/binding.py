"""Which epoch a flow run means, and whether another flow run has it already.

A flow run binds its id to an epoch before anything else: a retry or a resumption goes on with that epoch and never
starts the next. Correctness does not rest on it (markers are exclusive); it saves people from judging twice.
"""

import re

from prefect.client.schemas.objects import StateType

from flows.flow_runs import bound_flow_runs
from storage.run import Run
from tasks.config import Configuration
from tasks.errors import UserError
from tasks.exchange.fork import refuse_unfinished_fork

__all__ = ["BoundElsewhere", "bind_epoch", "refuse_another_run"]


class BoundElsewhere(Exception):
    """Another flow run works on, or waits for people on, this epoch."""


def bind_epoch(run: Run, flow_run_id: str, number: int | None = None) -> int:
    """The epoch that this flow run means, bound to it.

    The one given (an experiment's); else the bound one if there is one; else the lowest that is not sealed; else the
    next.

    Raises:
        BoundElsewhere: The epoch's last other flow run is alive or suspended; the message names it.
    """
    given = number is not None
    number = number if given else run.binding(flow_run_id)
    if number is None:
        refuse_unfinished_fork(run)
        number = run.next_epoch()
    if run.epoch(number).seal() is not None:
        return number
    # First bind, then look: of two that start at once, the one that bound later sees the other.
    if [bound["flow_run_id"] for bound in run.bindings(number)[-1:]] != [flow_run_id]:
        run.bind(flow_run_id, number, moves_on=given)
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


def refuse_another_run(configuration: Configuration, flow_run_id: str, name: str | None) -> None:
    """A flow run that is resumed reads its configuration file again, which may name another run by now.

    Args:
        configuration: As it is read now.
        flow_run_id: Prefect's id of this flow run.
        name: The flow run's name, given by ``name_flow_run`` when it began.

    Raises:
        UserError: It does.
    """
    named = re.fullmatch(rf"(.+)-(epoch-\d+|experiment)-{flow_run_id[:4]}", name or "")
    if named and named[1] != configuration.run:
        raise UserError(
            f"this flow run works on {named[2].replace('-', ' ')} of run {named[1]}, but its configuration names run "
            f"{configuration.run} now",
            remedy=f"put run: {named[1]} back into its configuration file, then prefect flow-run retry {flow_run_id}",
        )
