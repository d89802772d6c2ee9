"""What the team is told of a flow run that ended badly: a hook of the flow ``epoch``.

Prefect calls it in the flow's own process when it fails, and in the worker's when that process was killed.
"""

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from tasks.config_reading import load_configuration
from tasks.context import open_run, planned_context
from tasks.errors import UserError
from tasks.log import logger
from tasks.notices import send, tell

__all__ = ["tell_of_failure"]


def tell_of_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Tell once of each attempt of a flow run that failed or crashed; never fails itself."""
    try:
        configuration = load_configuration(flow_run.parameters["config"], flow_run.parameters.get("overrides") or ())
    except (UserError, KeyError):
        return  # it may be what the flow run failed of; and nobody knows whom to tell
    if configuration.orchestration.notify is None:
        return
    subject = f"the flow run {state.name.lower()}"
    body = f"{flow_run.name} ({flow_run.id}): {state.message}\nnext: prefect flow-run retry {flow_run.id}"
    try:
        run = open_run(configuration)
        number = run.binding(str(flow_run.id))
        if number is not None:
            context = planned_context(configuration, run, number)
            return tell(context, f"failed {flow_run.id} {flow_run.run_count}", subject, body)
    except Exception as error:  # a folder that cannot be read may be what it failed of
        logger().warning("could not write down that the team is told of the failure: %s", error)
    send(configuration, f"{configuration.run}: {subject}", body)
