"""The flow run that this code serves, if any: its logger and its id. The verbs call the same code outside of Prefect."""

import logging
import sys

__all__ = ["flow_run_id", "logger"]


def logger() -> logging.Logger | logging.LoggerAdapter:
    """Where this code's messages go now."""
    if _without_prefect():
        return logging.getLogger("d3po")
    from prefect import get_run_logger
    from prefect.exceptions import MissingContextError

    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("d3po")


def flow_run_id() -> str | None:
    """The id of the flow run, None outside of one."""
    if _without_prefect():
        return None
    from prefect.runtime import flow_run

    return flow_run.id


def _without_prefect() -> bool:
    """Whether nobody here has imported it, so that there is no flow run: the training process starts sooner without."""
    return "prefect" not in sys.modules
