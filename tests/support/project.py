"""A project folder of the tests' own, as an operator has one: configurations, prompts, a tiny model, runs, services.

Every verb runs as an operator types it, as a process in that folder. Nothing of it touches the repository's own
``runs/``, ``.services/`` or ``prefect.toml``.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CODE = ("flows", "tasks", "storage", "d3po_core")
COMMAND_SECONDS = 300.0
GATE_SECONDS = 20
"""The gate's interval in the tests' prefect.yaml; the committed one waits three times as long."""

PROMPTS = ("a red square", "a blue circle", "a green star", "a dark moon", "an old tree", "a thin line", "a big cat", "two dots")
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
            values[name] = {**values[name], **fields} if isinstance(fields, Mapping) else fields
        (self.folder / f"{run}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return f"{run}.yaml"

    def d3po(self, *arguments: str, seconds: float = COMMAND_SECONDS, **environment: str) -> Finished:
        """``d3po …``, waited for."""
        return self.finish(self.start(*arguments, **environment), seconds)

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
            raise AssertionError(f"{command} did not end within {seconds:.0f} s:\n{out[-3000:]}\n{err[-3000:]}") from None
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


def operator_environment(folder: Path) -> dict[str, str]:
    """The shell of somebody who has set nothing up yet, and whose own Prefect and Label Studio are not looked at."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "LABEL_STUDIO_", "AWS_"))}
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


def make_project(folder: Path) -> Project:
    """A project without services: the code as links, prefect.yaml with a faster gate, prompts and a tiny model."""
    from tests.d3po_core.tiny import build

    folder.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        (folder / name).symlink_to(REPOSITORY / name)
    deployments = (REPOSITORY / "prefect.yaml").read_text()
    assert "interval: 60" in deployments
    (folder / "prefect.yaml").write_text(deployments.replace("interval: 60", f"interval: {GATE_SECONDS}"))
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
        with_services.d3po("services", "up", seconds=600).good()
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
    at = len(data) // 2 if at is None else at
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
