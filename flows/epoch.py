"""The flow ``epoch``: binds a flow run to an epoch, runs it, and suspends while people judge."""

from tasks.startup import importing

with importing():
    from prefect import flow
    from prefect.runtime import flow_run
    from prefect.states import Cancelled, Completed, State

    from flows.binding import BoundElsewhere, bind_epoch, refuse_another_run
    from flows.epoch_run import WaitingForPeople, go_on_with
    from flows.explain import without_traces
    from flows.flow_runs import name_flow_run
    from flows.notices import tell_of_failure
    from flows.suspending import wait_for_people
    from tasks.config import Configuration
    from tasks.config_reading import load_configuration
    from tasks.context import EpochContext, create_run

__all__ = ["epoch"]

without_traces()


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
    refuse_another_run(configuration, flow_run.id, flow_run.name)
    run = create_run(configuration)
    try:
        number = bind_epoch(run, flow_run.id)
    except BoundElsewhere as elsewhere:
        return Cancelled(message=str(elsewhere))
    name_flow_run(flow_run.id, f"{configuration.run}-epoch-{number}-{flow_run.id[:4]}")
    try:
        go_on_with(EpochContext(configuration=configuration, run=run, number=number), retrain=retrain)
    except WaitingForPeople as waiting:
        return wait_for_people(waiting)
    return Completed(message=f"epoch {number} is sealed")
