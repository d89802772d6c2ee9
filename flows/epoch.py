"""The flow ``epoch``: binds a flow run to an epoch, runs it, and suspends while people judge."""

from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.flow_runs import suspend_flow_run
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.binding import BoundElsewhere, bind_epoch
from flows.epoch_run import WaitingForPeople, run_epoch
from flows.explain import without_traces
from flows.flow_runs import name_flow_run
from tasks.config import Configuration, load_configuration
from tasks.context import EpochContext, create_run

__all__ = ["WAITING", "epoch"]

without_traces()

WAITING = "WaitingForPeople"
"""The state name of a flow run that ended because it could not be suspended (``d3po run --here``)."""


@flow(name="epoch", task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False, validate_parameters=True)
def epoch(config: Configuration | str, overrides: list[str] | None = None, retrain: bool = False) -> State:
    """Run one human-feedback epoch, from where it stands.

    Args:
        config: A configuration file as the worker sees it, or the configuration itself.
        overrides: ``--section.field value`` options on top of it, e.g. ``["--training.learning_rate", "1e-4"]``.
        retrain: Begin a new training attempt, with training fields as they are now, after one that failed.
    """
    configuration = load_configuration(config, overrides or ())
    run = create_run(configuration)
    try:
        number = bind_epoch(run, flow_run.id)
    except BoundElsewhere as elsewhere:
        return Cancelled(message=str(elsewhere))
    name_flow_run(flow_run.id, f"{configuration.run}-epoch-{number}-{flow_run.id[:4]}")
    context = EpochContext(configuration=configuration, run=run, number=number)
    with run.lock(f"epoch-{number:04d}"):
        try:
            run_epoch(context, retrain=retrain)
        except WaitingForPeople as waiting:
            get_run_logger().info("%s", waiting)
            if deployment.id is None:
                return Completed(name=WAITING, message=str(waiting))
            # A fresh key: with the default one a retried run would walk through this gate unasked.
            suspend_flow_run(key=f"annotate-{uuid4()}", timeout=None)
    return Completed(message=f"epoch {number} is sealed")
