"""Errors as an operator reads them: what was expected, what was found, the next command; never a stack trace."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["explained", "without_traces"]

KNOWN = {
    ("tasks.errors", "UserError"),
    ("storage.errors", "StorageError"),
    ("tasks.label_studio.errors", "LabelStudioError"),
    ("d3po_core.errors", "ModelError"),
    ("d3po_core.errors", "ObjectiveError"),
    ("d3po_core.errors", "SamplingError"),
    ("d3po_core.errors", "TrainingError"),
    ("flows.label_studio_server", "ServicesError"),
}
"""By name, so that explaining an error imports nothing."""


def without_traces() -> None:
    """Let Prefect's run loggers, too, say errors that the code explains without their stack trace."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, _WithoutTraces) for one in logger.filters):
            logger.addFilter(_WithoutTraces())


class _WithoutTraces(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None and _is_explained(record.exc_info[1]):
            record.exc_info = None
        return True


def _is_explained(error: BaseException) -> bool:
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    return bool(kinds & KNOWN) and not os.environ.get("D3PO_TRACEBACK")


def _next(error: Exception) -> str:
    """The next step for errors of the core, which knows no command line."""
    if getattr(error, "remedy", None) or "next:" in str(error).lower():
        return ""
    return "\n  next: mend what is named above, then d3po init CONFIG looks at it again"


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that the code explains into their message and exit status 1; ``D3PO_TRACEBACK=1`` shows all."""
    try:
        yield
    except Exception as error:
        if not _is_explained(error):
            raise
        print(f"error: {error}{_next(error)}", file=sys.stderr)
        sys.exit(1)
