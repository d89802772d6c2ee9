"""A project folder of the tests' own, as an operator has one: configurations, prompts, a tiny model, runs, services.

Every verb runs as an operator types it, as a process in that folder. Nothing of it touches the repository's own
``runs/``, ``.services/`` or ``prefect.toml``.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HANG = Path(__file__).parent / "hang"
CODE = ("flows", "tasks", "storage", "d3po_core")
COMMAND_SECONDS = 900.0
NOBODY = "http://127.0.0.1:9/api"
"""Where no server answers."""

PROMPTS = (
    "a red square",
    "a blue circle",
    "a green star",
    "a dark moon",
    "an old tree",
    "a thin line",
    "a big cat",
    "two dots",
)
"""At most 16 tokens each, where every letter is a token."""

CONFIGURATION: dict[str, Any] = {
    "model": {"path": "model"},
    "sampling": {"num_inference_steps": 4, "guidance_scale": 3.0, "group_size": 2, "groups_per_batch": 2},
    "lora": {"rank": 2, "alpha": 2.0},
    "prompts": {"file": "prompts.txt", "groups_per_epoch": 6},
    "labels": {"source": "programmed"},
    "objective": {"beta": 10.0},
    "training": {
        "learning_rate": 1e-3,
        "groups_per_step": 1,
        "inner_epochs": 2,
        "checkpoint_every": 2,
        "micro_batch": 4,
    },
    "orchestration": {"groups_per_shard": 2, "threads": 1, "shard_retries": 0},
}
"""Six groups in three shards, twelve optimizer steps at most, a checkpoint after every second one."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    command: str
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return f"{self.out}\n{self.err}"

    def good(self) -> "Finished":
        """Itself, where it ended well."""
        assert self.code == 0, f"{self.command} ended with {self.code}:\n{self.text[-4000:]}"
        return self

    def refused(self, *expected: str, code: int = 1) -> "Finished":
        """Itself, where it ended with an explained error in which all of ``expected`` stand, and the next step."""
        assert self.code == code, f"{self.command} ended with {self.code}, expected {code}:\n{self.text[-4000:]}"
        assert "Traceback" not in self.text, self.text[-4000:]
        missing = [part for part in (*expected, "next:") if part.lower() not in self.text.lower()]
        assert not missing, f"{self.command} does not say {missing}:\n{self.text[-4000:]}"
        return self


@dataclass(frozen=True, kw_only=True)
class Project:
    """A folder to work in, and the environment to work with."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def configuration(self, run: str, **sections: Mapping[str, Any]) -> str:
        """Write ``<run>.yaml``: the tests' configuration with these fields on top; returns its name."""
        values = {"run": run, **{name: dict(fields) for name, fields in CONFIGURATION.items()}}
        for name, fields in sections.items():
            values[name] = {**values.get(name, {}), **fields}
        (self.folder / f"{run}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return f"{run}.yaml"

    def d3po(self, *arguments: str, seconds: float = COMMAND_SECONDS, **environment: str) -> Finished:
        """``d3po …``, waited for."""
        return self.finish(self.start(*arguments, **environment), seconds)

    def verb(self, *arguments: str, **environment: str) -> Finished:
        """``d3po …`` in this process, which has the heavy imports behind it; everything else is the same."""
        out, err = io.StringIO(), io.StringIO()
        with self.entered(**environment), redirect_stdout(out), redirect_stderr(err):
            code = _main(arguments)
        return Finished(f"d3po {' '.join(arguments)}", code, out.getvalue(), err.getvalue())

    @contextmanager
    def entered(self, **environment: str) -> Iterator[None]:
        """This process in the project: its folder, its environment, its Prefect server and Label Studio."""
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.service_settings import load_environment

        before = dict(os.environ)
        with ExitStack() as stack:
            stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
            os.environ.clear()
            os.environ.update({**self.environment, **environment})
            stack.enter_context(chdir(self.folder))
            load_environment()
            server = os.environ.get("PREFECT_API_URL", NOBODY)
            stack.enter_context(temporary_settings({PREFECT_API_URL: server}))
            yield

    def prefect(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> Finished:
        """``prefect …``, waited for."""
        return self.finish(self._open([str(BIN / "prefect"), *arguments]), seconds)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """``d3po …`` in a process group of its own."""
        return self._open([str(BIN / "d3po"), *arguments], **environment)

    def finish(self, process: subprocess.Popen[str], seconds: float = COMMAND_SECONDS) -> Finished:
        """What a started command said, once it has ended."""
        command = " ".join([Path(process.args[0]).name, *process.args[1:]])  # type: ignore[misc,index]
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(
                f"{command} did not end within {seconds:.0f} s:\n{out[-3000:]}\n{err[-3000:]}"
            ) from None
        return Finished(command, process.returncode, out, err)

    def _open(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=self.folder, env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def epoch(self, run: str, number: int = 0) -> Path:
        """An epoch's folder."""
        return self.runs / run / "epochs" / f"{number:04d}"

    def seal(self, run: str, number: int = 0) -> dict[str, Any]:
        """An epoch's EPOCH.json."""
        return json.loads((self.epoch(run, number) / "EPOCH.json").read_text())

    def committed(self, run: str, number: int = 0) -> set[str]:
        """The names that have a marker."""
        folder = self.epoch(run, number) / "commits"
        return {file.name.split(".")[0] for file in folder.glob("*.json")} if folder.is_dir() else set()


@contextmanager
def hanging(project: Project, where: str, arguments: list[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``d3po …`` that stands still at one place; killed with its whole process group at the end of the block.

    Args:
        project: Where it runs.
        where: ``before`` or ``after``, and the file whose becoming visible is meant (``after commits/pull.1.json``).
        arguments: Of ``d3po``.

    Yields:
        The process, and the id of the one that stands still: itself or its trainer.
    """
    with hang_environment(where) as (environment, reached):
        process = project.start(*arguments, **environment)
        try:
            until(lambda: _number(reached) or process.poll() is not None, COMMAND_SECONDS, where)
            if process.poll() is not None:
                raise AssertionError(f"ended before it came to {where}:\n{project.finish(process).text[-4000:]}")
            yield process, _number(reached)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@contextmanager
def hang_environment(where: str) -> Iterator[tuple[dict[str, str], Path]]:
    """What makes a process stand still somewhere, and the file that then has its number in it."""
    with tempfile.TemporaryDirectory(prefix="d3po-hang-") as folder:
        reached = Path(folder, "reached")
        path = os.pathsep.join(filter(None, [str(HANG), os.environ.get("PYTHONPATH")]))
        yield {"PYTHONPATH": path, "D3PO_TEST_HANG": where, "D3PO_TEST_REACHED": str(reached)}, reached


def _number(reached: Path) -> int:
    text = reached.read_text() if reached.exists() else ""
    return int(text or 0)


def operator_environment(folder: Path) -> dict[str, str]:
    """The shell of somebody who has set nothing up yet, and whose own Prefect and Label Studio are not looked at."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "LABEL_STUDIO_", "AWS_"))
    }
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PREFECT_HOME": str(folder / "prefect-home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "D3PO_CACHE": str(folder / "cache"),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


def _main(arguments: tuple[str, ...]) -> int:
    from flows.cli import main

    before, sys.argv = sys.argv, ["d3po", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0


def make_project(folder: Path) -> Project:
    """A project without services: the code as links, prefect.yaml, prompts and a tiny model."""
    from tests.d3po_core.tiny import build

    folder.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "prefect.yaml", folder)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    (folder / "runs").mkdir()
    (folder / "model").mkdir()
    build(folder / "model")
    return Project(folder=folder, environment=operator_environment(folder))


@contextmanager
def services_of(project: Project, template: Path | None = None) -> Iterator[Project]:
    """``d3po services up`` in the project, ``down`` at the end.

    Args:
        project: From ``make_project``.
        template: A folder with the database that ``tests.support.label_studio`` keeps of a migrated Label Studio; saves
            the minute of its migrations.
    """
    from flows.label_studio_server import ENV_VARIABLE, ensure_label_studio_env

    env = ensure_label_studio_env(REPOSITORY / ".label-studio-env")
    environment = {**project.environment, ENV_VARIABLE: str(env)}
    with_services = Project(folder=project.folder, environment=environment)
    _use_template(project.folder / ".services", template)
    try:
        with_services.d3po("services", "up", seconds=1200).good()
        yield with_services
    finally:
        with_services.d3po("services", "down")


def until(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.005) -> Any:
    """The condition's first true value.

    Raises:
        AssertionError: It did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


def flip_byte(path: Path, at: int | None = None) -> bytes:
    """Change one bit of a file, by default in its middle; returns what it was."""
    data = path.read_bytes()
    at = len(data) // 2 if at is None else at % len(data)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return data


def _use_template(services: Path, template: Path | None) -> None:
    """Begin with a migrated database whose first user has the tests' own key."""
    from tests.support.label_studio import DATABASE, EMAIL, KEY, PASSWORD, kept_database

    kept = template and kept_database(template)
    if not kept or not kept.exists():
        return
    (services / "label-studio").mkdir(parents=True, mode=0o700)
    services.chmod(0o700)
    shutil.copy(kept, services / "label-studio" / DATABASE)
    credentials = services / "credentials.json"
    credentials.write_text(json.dumps({"email": EMAIL, "password": PASSWORD, "token": KEY, "database": {}}))
    credentials.chmod(0o600)
