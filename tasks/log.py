"""The logger of the flow or task run, or a plain one where a verb calls the same code outside of Prefect."""

import logging

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

__all__ = ["logger"]


def logger() -> logging.Logger | logging.LoggerAdapter:
    """Where this code's messages go now."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("d3po")
