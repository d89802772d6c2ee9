"""The flow run that this code serves, if any: its logger and its id. The verbs call the same code outside of Prefect."""

import logging

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from prefect.runtime import flow_run

__all__ = ["flow_run_id", "logger"]


def logger() -> logging.Logger | logging.LoggerAdapter:
    """Where this code's messages go now."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("d3po")


def flow_run_id() -> str | None:
    """The id of the flow run, None outside of one."""
    return flow_run.id
