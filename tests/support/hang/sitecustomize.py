"""Put on PYTHONPATH of a process that is to be killed: makes it stand still at one place of its work, for a while.

The code that runs is the real one; it is only slow in one ``os.link``, the call that makes a finished file visible.
"""

import fnmatch
import os
import time

_link = os.link
_when, _, _file = os.environ["D3PO_TEST_HANG"].partition(" ")


def _hang() -> None:
    with open(os.environ["D3PO_TEST_REACHED"], "w") as reached:
        reached.write(str(os.getpid()))
    time.sleep(900)


def _slow_link(source, target, **options) -> None:
    here = fnmatch.fnmatch(os.fspath(target), f"*/{_file}")
    if here and _when == "before":
        _hang()
    _link(source, target, **options)
    if here and _when == "after":
        _hang()


os.link = _slow_link
