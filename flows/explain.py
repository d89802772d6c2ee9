"""Errors as an operator reads them: what was expected, what was found, the next command; never a stack trace."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["explained"]

KNOWN = {
    ("tasks.errors", "UserError"),
    ("storage.errors", "StorageError"),
    ("tasks.label_studio.errors", "LabelStudioError"),
    ("d3po_core.errors", "ModelError"),
    ("d3po_core.errors", "SamplingError"),
    ("d3po_core.errors", "TrainingError"),
    ("flows.label_studio_server", "ServicesError"),
}
"""By name, so that explaining an error imports nothing."""


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
        kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
        if os.environ.get("D3PO_TRACEBACK") or not kinds & KNOWN:
            raise
        print(f"error: {error}{_next(error)}", file=sys.stderr)
        sys.exit(1)
