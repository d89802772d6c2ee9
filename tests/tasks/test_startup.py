"""A start without the garbage collector."""

import subprocess
import sys

import pytest

from tests.support.project import REPOSITORY

SAID = "print(gc.isenabled(), gc.get_freeze_count(), gc.get_stats()[2]['collections'])"


def after(code: str) -> tuple[bool, int, int]:
    """Whether the collector is on in a process that ran this, what it leaves alone, and how often it went through all."""
    done = subprocess.run(
        [sys.executable, "-c", f"import gc\n{code}\n{SAID}"], cwd=REPOSITORY, capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    enabled, frozen, collections = done.stdout.split()
    return enabled == "True", int(frozen), int(collections)


@pytest.mark.parametrize("entry", ["flows.epoch", "flows.experiment", "flows.evaluate", "tasks.training.trainer"])
def test_what_an_entry_point_imports_is_never_walked_through(entry: str):
    enabled, frozen, collections = after(f"import {entry}")
    assert enabled, "what comes after is collected as ever"
    assert frozen > 200_000
    assert collections <= 2, "of eight"


def test_a_module_that_fails_to_load_leaves_the_collector_on():
    code = """
from contextlib import suppress
from tasks.startup import importing
with suppress(ImportError), importing(), importing():
    import no_such_module
"""
    assert after(code)[0]


def test_an_inner_one_leaves_it_to_the_outer():
    code = """
from tasks.startup import importing
with importing():
    with importing():
        pass
    assert not gc.isenabled()
"""
    assert after(code)[0]
