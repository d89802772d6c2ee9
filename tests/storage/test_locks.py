import os
import signal
import time

import pytest

from storage.errors import LockedError
from storage.run import Run
from tests.storage.samples import hold_lock, stage_and_wait


def test_a_lock_names_its_holder(disk_run):
    with (
        disk_run.lock("epoch-0003"),
        pytest.raises(LockedError, match=rf"epoch-0003 of run demo.*process {os.getpid()} (.|\n)*next: d3po status"),
        disk_run.lock("epoch-0003"),
    ):
        pass
    with disk_run.lock("epoch-0003"), disk_run.lock("epoch-0004"):
        pass


def test_a_killed_holder_frees_its_lock_even_where_its_children_live(disk_run, processes):
    ready = processes.Queue()
    holder = processes.Process(target=hold_lock, args=(disk_run.root, disk_run.name, "epoch-0000", ready))
    holder.start()
    try:
        grandchild = ready.get(timeout=300)
        try:
            with pytest.raises(LockedError, match=f"process {holder.pid}"), disk_run.lock("epoch-0000"):
                pass
            holder.kill()
            holder.join()
            with disk_run.lock("epoch-0000"):
                os.kill(grandchild, 0)  # still there
        finally:
            os.kill(grandchild, signal.SIGKILL)
    finally:
        holder.kill()


def test_a_lock_on_s3_holds_nobody_up(s3_environment):
    run = Run.create("s3://runs/locks", f"r{time.time_ns()}", {})
    assert not run.has_lock
    with run.lock("epoch-0000"), run.lock("epoch-0000"):
        pass


def test_what_killed_processes_left_is_swept_and_the_living_are_spared(disk_run, processes):
    own = disk_run.epoch(0).begin("prompts")
    ready = processes.Queue()
    child = processes.Process(target=stage_and_wait, args=(disk_run.root, disk_run.name, ready))
    child.start()
    try:
        left = ready.get(timeout=300)
        assert disk_run.sweep() == []
    finally:
        child.kill()
        child.join()
    assert len(disk_run.sweep()) == 1
    assert not os.path.exists(left)
    assert own.path.is_dir()
