"""The flow ``epoch``: binds a flow run to an epoch, runs it, and suspends while people judge."""

import re
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.flow_runs import suspend_flow_run
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed, State

from flows.binding import BoundElsewhere, bind_epoch
from flows.epoch_run import WaitingForPeople, run_epoch
from flows.explain import without_traces
from flows.flow_runs import name_flow_run
from flows.notices import tell_of_failure
from flows.preflight import preflight
from tasks.config import Configuration, load_configuration
from tasks.context import EpochContext, create_run
from tasks.errors import UserError

__all__ = ["WAITING", "epoch"]

without_traces()

WAITING = "WaitingForPeople"
"""The state name of a flow run that ended because it could not be suspended (``d3po run --here``)."""


@flow(
    name="epoch",
    persist_result=False,
    validate_parameters=True,
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def epoch(config: Configuration | str, overrides: list[str] | None = None, retrain: bool = False) -> State:
    """Run one human-feedback epoch, from where it stands.

    Args:
        config: A configuration file as the worker sees it, or the configuration itself.
        overrides: ``--section.field value`` options on top of it, e.g. ``["--training.learning_rate", "1e-4"]``.
        retrain: Begin a new training attempt, with training fields as they are now, after one that failed.
    """
    configuration = load_configuration(config, overrides or ())
    _refuse_another_run(configuration)
    run = create_run(configuration)
    try:
        number = bind_epoch(run, flow_run.id)
    except BoundElsewhere as elsewhere:
        return Cancelled(message=str(elsewhere))
    name_flow_run(flow_run.id, f"{configuration.run}-epoch-{number}-{flow_run.id[:4]}")
    context = EpochContext(configuration=configuration, run=run, number=number)
    with run.lock(f"epoch-{number:04d}"):
        run.sweep()
        if context.epoch.plan() is None:
            for check in preflight(configuration):
                get_run_logger().info("%s: %s", check.what, check.found)
        try:
            run_epoch(context, retrain=retrain)
        except WaitingForPeople as waiting:
            get_run_logger().info("%s", waiting)
            if deployment.id is None:
                return Completed(name=WAITING, message=str(waiting))
            # A fresh key: with the default one a retried run would walk through this gate unasked.
            suspend_flow_run(key=f"annotate-{uuid4()}", timeout=None)
    return Completed(message=f"epoch {number} is sealed")


def _refuse_another_run(configuration: Configuration) -> None:
    """A flow run that is resumed reads its configuration file again, which may name another run by now.

    Raises:
        UserError: It does.
    """
    named = re.fullmatch(rf"(.+)-epoch-(\d+)-{flow_run.id[:4]}", flow_run.name or "")
    if named and named[1] != configuration.run:
        raise UserError(
            f"this flow run works on epoch {named[2]} of run {named[1]}, but its configuration names run "
            f"{configuration.run} now",
            remedy=f"put run: {named[1]} back into its configuration file, then prefect flow-run retry {flow_run.id}",
        )
