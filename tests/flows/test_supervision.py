"""A real supervisord with programs that do not come up."""

import sys
import time
from collections.abc import Iterator

import pytest

from flows.label_studio_server import ServicesError
from flows.supervision import Program, Supervisor

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("services")
    made = Supervisor(folder)
    commands = {
        "good": SLEEP,
        "ends": ("/bin/false",),
        "unwritable": SLEEP,
        "missing": (str(folder / "no such program"),),
    }
    made.write([Program(name=name, command=command, folder=folder) for name, command in commands.items()])
    made.program_log("unwritable").mkdir()
    made.launch()
    yield made
    made.shutdown()


def state_of(supervisor: Supervisor, name: str, *wanted: str) -> str:
    deadline = time.monotonic() + 60
    while (state := supervisor.process(name).state) not in wanted:
        assert time.monotonic() < deadline, f"{name} is {state}"
        time.sleep(0.1)
    return state


def test_one_that_runs_is_left_alone(supervisor: Supervisor):
    supervisor.start("good")
    state_of(supervisor, "good", "RUNNING")
    pid, _, _uptime = supervisor.process("good").detail.partition(", ")
    supervisor.start("good")
    assert pid.startswith("pid ")
    assert supervisor.process("good").detail.startswith(f"{pid}, ")


@pytest.mark.parametrize("name", ["ends", "unwritable"])
def test_one_that_does_not_come_up_is_tried_again_and_then_given_up(supervisor: Supervisor, name: str):
    """However early it ends: supervisord calls it a spawn error if that is before it first looks."""
    supervisor.start(name)
    state_of(supervisor, name, "BACKOFF")
    supervisor.start(name)
    state_of(supervisor, name, "FATAL")
    assert supervisor.process(name).detail
    supervisor.start(name)
    state_of(supervisor, name, "BACKOFF", "STARTING")


def test_one_whose_program_is_not_there(supervisor: Supervisor):
    with pytest.raises(
        ServicesError, match=r"(?s)does not start missing: NO_FILE.*no such program.*next: see its command"
    ):
        supervisor.start("missing")
