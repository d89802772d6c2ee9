"""A user's own function as an objective, by ``module:function``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d3po_core.errors import ObjectiveError

__all__ = ["import_target"]


def import_target(target: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Args:
        target: the module is an installed one, or lies in the working folder; installed ones come first, so that a file
            of one's own never takes the place of a library.

    Raises:
        ObjectiveError: no such module, a module that does not import, or no such function in it.
    """
    module_name, _, function_name = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as problem:
        raise ObjectiveError(
            f"target {target}: the module {module_name} does not import (installed, or from {here}): "
            f"{type(problem).__name__}: {problem}"
        ) from problem
    function = getattr(module, function_name, None)
    if not callable(function):
        known = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        raise ObjectiveError(
            f"target {target}: {module.__file__} has no function {function_name}; it has {', '.join(known) or 'none'}"
        )
    return function
