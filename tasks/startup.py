"""A process's start: its modules without the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["importing"]


@contextmanager
def importing() -> Iterator[None]:
    """The garbage collector at rest while modules are imported; what they have made it never looks at again.

    They make half a million objects that stay. Walking through these again and again as they come, and once more at the
    process's end, takes more than a quarter of a start (``benchmarks/start.py``). Only for a process's entry points,
    before anything is loaded: what is unreachable by then is kept as well.
    """
    if not gc.isenabled():  # an outer one ends it
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
