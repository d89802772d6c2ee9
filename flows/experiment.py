"""The flow ``experiment``: epochs of a run, one after the other, until there are as many as were asked for.

It says where the run is to arrive, not how many epochs to add: a retry, a resumption, a run after a kill and the same
command typed again all go on from what is sealed, and do nothing where that is enough. Only an outermost flow run can
be suspended: it calls the epoch's body, and no subflow.
"""

import json
from typing import Any

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
    from storage.run import Run
    from tasks.config import Configuration
    from tasks.config_reading import load_configuration
    from tasks.context import EpochContext, create_run
    from tasks.exchange.fork import refuse_unfinished_fork
    from tasks.generation.prompts import read_prompts
    from tasks.log import logger
    from tasks.programmed import definitions

__all__ = ["experiment"]

without_traces()


@flow(
    name="experiment",
    persist_result=False,
    validate_parameters=True,
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def experiment(config: Configuration | str, overrides: list[str] | None = None) -> State:
    """Run epochs until the run has ``experiment.epochs``, or fewer where ``experiment.target`` is reached.

    Args:
        config: A configuration file as the worker sees it, or the configuration itself.
        overrides: ``--section.field value`` options on top of it, e.g. ``["--experiment.epochs", "10"]``.
    """
    configuration = load_configuration(config, overrides or ())
    refuse_another_run(configuration, flow_run.id, flow_run.name)
    run = create_run(configuration)
    refuse_unfinished_fork(run)
    name_flow_run(flow_run.id, f"{configuration.run}-experiment-{flow_run.id[:4]}")
    while (arrived := _arrived(configuration, run)) is None:
        try:
            _one_epoch(configuration, run)
        except BoundElsewhere as elsewhere:
            return Cancelled(message=str(elsewhere))
        except WaitingForPeople as waiting:
            return wait_for_people(waiting)
    return Completed(message=arrived)


def _one_epoch(configuration: Configuration, run: Run) -> None:
    """The epoch that is not sealed, or whose report is missing or says nothing of the target, or the next."""
    sealed = run.sealed_epochs()
    number = run.next_epoch()
    if sealed and not _reported(configuration, run, sealed[-1]):
        number = sealed[-1]
        logger().info(
            "the report of epoch %d is missing, or says nothing of the target as configured: it is made now", number
        )
    bind_epoch(run, flow_run.id, number)
    go_on_with(EpochContext(configuration=configuration, run=run, number=number))


def _arrived(configuration: Configuration, run: Run) -> str | None:
    """Why there is nothing left to do; None where there is."""
    sealed = run.sealed_epochs()
    if not sealed or not _reported(configuration, run, sealed[-1]):
        return None
    reached = _target_reached(configuration, run, sealed[-1])
    if reached or len(sealed) >= configuration.experiment.epochs:
        return f"{configuration.run} has {len(sealed)} sealed epochs" + (f"; {reached}" if reached else "")
    return None


def _target_reached(configuration: Configuration, run: Run, number: int) -> str | None:
    wanted = configuration.experiment
    if wanted.target is None:
        return None
    found = {item["objective"]: item["after"] for item in _evaluation(run, number)["comparisons"]}
    after = found[wanted.target_objective]
    return (
        f"{wanted.target_objective} reached {after:.4f}, wanted {wanted.target:g}" if after >= wanted.target else None
    )


def _reported(configuration: Configuration, run: Run, number: int) -> bool:
    """Whether the report is there, and measures the target as it is configured: one that ``d3po report`` made of other
    objectives or prompts is made again."""
    name = configuration.experiment.target_objective
    if run.epoch(number).read_aside("report/report.html") is None:
        return False
    if name is None:
        return True
    found, prompts = _evaluation(run, number), read_prompts(configuration.evaluation.prompts)
    meaning = definitions(configuration, (name,))[name]
    return found.get("prompts") == prompts and found.get("objectives", {}).get(name) == meaning


def _evaluation(run: Run, number: int) -> dict[str, Any]:
    """What the epoch's report measured."""
    return json.loads(run.epoch(number).read_aside("report/evaluation.json") or b'{"comparisons": []}')
