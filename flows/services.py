"""The services beside the pipeline: Label Studio, Prefect's server and a worker, in one folder.

``up`` makes what is missing and starts what does not run, ``down`` stops everything and deletes nothing. Ports, data
and credentials are chosen once and kept. Everything listens on the loopback interface only. Nothing is printed here.
"""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.label_studio_server import (
    ServicesError,
    ensure_label_studio_env,
    label_studio_command,
    label_studio_environment,
    prepare_database,
)
from flows.service_settings import (
    DEFAULT_FOLDER,
    ENVIRONMENT_FILE,
    client_environment,
    credentials_of,
    keep_settings,
    label_studio_health,
    label_studio_url,
    prefect_environment,
    prefect_health,
    prefect_url,
    read_settings,
    write_environment,
    write_prefect_toml,
)

__all__ = [
    "Service",
    "Services",
    "ServicesError",
    "down",
    "status",
    "up",
]

WORK_POOL = "local"
START_SECONDS = {"label-studio": 900.0, "prefect-server": 300.0, "prefect-worker": 180.0}
"""A cold start on busy cores: on calm ones Label Studio migrates its database for most of a minute.

What ends instead of starting is not waited for so long: supervisord gives it up.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One of the three processes."""

    name: str
    """``label-studio``, ``prefect-server`` or ``prefect-worker``."""
    state: str
    """supervisord's word (``RUNNING``, ``STOPPED``, ``FATAL`` …); ``STOPPED`` when supervisord does not run."""
    answers: bool
    """Whether it answers at its address; a worker has none and answers when it runs."""
    detail: str
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where everything is."""

    folder: Path
    label_studio_url: str
    prefect_url: str
    """The server's pages."""
    prefect_api_url: str
    document_root: Path
    """Whose subfolders Label Studio may serve: the storage root."""
    work_pool: str
    credentials_file: Path
    """Label Studio's login (email, password, token), 0600."""
    environment_file: Path
    """``NAME=value`` lines for processes that use the services, 0600."""
    services: tuple[Service, ...]

    @property
    def healthy(self) -> bool:
        """All three run and answer."""
        return bool(self.services) and all(one.answers and one.state == "RUNNING" for one in self.services)


def up(folder: Path = DEFAULT_FOLDER, *, document_root: Path = Path("runs"), project: Path | None = None) -> Services:
    """Make and start whatever is missing; a second time it only looks.

    Args:
        folder: Where everything of the services lies.
        document_root: The storage root, whose images Label Studio serves.
        project: The directory that gets ``prefect.toml`` and in which the worker runs; default: the current one.

    Raises:
        ServicesError: A port that others took, a process that does not come up, Label Studio's installation.
    """
    folder, document_root = folder.resolve(), document_root.resolve()
    project = (project or Path.cwd()).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    document_root.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        label_studio_env = ensure_label_studio_env(project / ".label-studio-env")
        settings = keep_settings(folder, document_root=document_root, project=project)
        credentials = credentials_of(folder)
        prepare_database(folder / "label-studio", credentials["database"])
        write_environment(folder, settings, credentials)
        write_prefect_toml(project, settings)
        supervisor = _supervisor(folder)
        running = supervisor.alive()
        if not running:
            _check_nothing_left(folder, settings)
        supervisor.write(_programs(folder, settings, credentials, label_studio_env))
        if running:
            supervisor.update()
        else:
            supervisor.launch()
        supervisor.start("label-studio")
        supervisor.start("prefect-server")
        _await(supervisor, "prefect-server", lambda: _answers(prefect_health(settings)))
        _ensure_work_pool(settings)
        _await(supervisor, "label-studio", lambda: _answers(label_studio_health(settings)))
        _check_label_studio_is_ours(settings, credentials)
        supervisor.start("prefect-worker")
        _await(supervisor, "prefect-worker", lambda: True)
    return status(folder)


def down(folder: Path = DEFAULT_FOLDER) -> tuple[str, ...]:
    """Stop everything, the worker first so that its last words still reach the server; returns what was stopped.

    Flows in flight are killed with their worker; ``d3po recover`` takes them up again.

    Raises:
        ServicesError: There are no services in that folder, or something does not stop.
    """
    from flows.supervision import end_leftovers, leftovers

    folder = folder.resolve()
    read_settings(folder)
    with _only_one(folder):
        supervisor = _supervisor(folder)
        if not supervisor.alive():
            left = leftovers(folder)
            end_leftovers(folder)
            return tuple(left.values())
        stopped = [one.name for one in supervisor.processes() if one.state in ("RUNNING", "STARTING", "BACKOFF")]
        for name in ("prefect-worker", "prefect-server", "label-studio"):
            supervisor.stop(name)
        supervisor.shutdown()
        # A flow's process leads a group of its own and outlives a worker that had to be killed.
        end_leftovers(folder)
    return tuple(stopped)


def status(folder: Path = DEFAULT_FOLDER) -> Services:
    """What runs, and where.

    Raises:
        ServicesError: There are no services in that folder.
    """
    folder = folder.resolve()
    settings = read_settings(folder)
    supervisor = _supervisor(folder)
    alive = supervisor.alive()
    health = {"label-studio": label_studio_health(settings), "prefect-server": prefect_health(settings)}
    services = []
    for name in START_SECONDS:
        process = supervisor.process(name) if alive else None
        state = process.state if process else "STOPPED"
        services.append(
            Service(
                name=name, state=state, detail=process.detail if process else "supervisord does not run",
                answers=state == "RUNNING" and (name not in health or _answers(health[name])),
                log=supervisor.program_log(name),
            )
        )  # fmt: skip
    return Services(
        folder=folder,
        label_studio_url=label_studio_url(settings),
        prefect_url=prefect_url(settings),
        prefect_api_url=f"{prefect_url(settings)}/api",
        document_root=Path(settings["document_root"]),
        work_pool=WORK_POOL,
        credentials_file=folder / "credentials.json",
        environment_file=folder / ENVIRONMENT_FILE,
        services=tuple(services),
    )


def _programs(folder: Path, settings: dict, credentials: dict, label_studio_env: Path) -> list:
    from flows.supervision import Program

    label_studio = label_studio_environment(
        data=folder / "label-studio", document_root=Path(settings["document_root"]), email=credentials["email"],
        password=credentials["password"], token=credentials["token"], database=credentials["database"],
    )  # fmt: skip
    # The server runs in the services folder: the prefect.toml of the project would make it a client of itself.
    server = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(settings["prefect_port"]),
    ]
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--name", "d3po"]
    return [
        Program(
            name="label-studio", command=label_studio_command(label_studio_env, settings["label_studio_port"]),
            folder=folder / "label-studio", environment=label_studio,
        ),
        Program(
            name="prefect-server", command=server, folder=folder, environment=prefect_environment(folder),
            stop_signal="INT",
        ),
        Program(
            name="prefect-worker", command=worker, folder=Path(settings["project"]),
            environment={
                **client_environment(folder, settings, credentials), "PATH": _path(), "PREFECT_LOGGING_LEVEL": "INFO",
            },
            stop_signal="INT",
        ),
    ]  # fmt: skip


def _path() -> str:
    """Our own python, prefect and torchrun first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _check_nothing_left(folder: Path, settings: dict) -> None:
    """Label Studio would silently take the next port; Prefect would die."""
    from flows.supervision import leftovers

    left = leftovers(folder)
    if left:
        raise ServicesError(
            f"supervisord is gone, but processes of these services still run: {', '.join(map(str, left))}",
            remedy="d3po services down, then d3po services up",
        )
    for name in ("label_studio_port", "prefect_port"):
        # As the servers bind themselves: what a connection of theirs left in TIME_WAIT is no hindrance.
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", settings[name]))
            except OSError:
                raise ServicesError(
                    f"another program listens on 127.0.0.1:{settings[name]}, which is kept for {name.removesuffix('_port')}",
                    remedy=f"end that program, or write a free port to {folder / 'services.json'}; then d3po services up",
                ) from None


def _await(supervisor: Any, name: str, answers: Callable[[], bool]) -> None:
    """Until supervisord calls it running and it answers.

    Raises:
        ServicesError: supervisord gave up on it, or the time is over; with the last lines of its log.
    """
    deadline = time.monotonic() + START_SECONDS[name]
    while time.monotonic() < deadline:
        state = supervisor.process(name).state
        if state == "RUNNING" and answers():
            return
        if state in ("FATAL", "UNKNOWN", "STOPPED"):
            break
        time.sleep(0.2)
    process = supervisor.process(name)
    raise ServicesError(
        f"{name} did not come up (state {process.state}, limit {START_SECONDS[name]:g} s): {process.detail}; "
        f"its last words:\n{_last_words(process.log)}",
        remedy=f"see {process.log}, then d3po services up",
    )


def _last_words(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) or "(no output)"
    except OSError as error:
        return f"(no log: {error})"


def _ensure_work_pool(settings: dict) -> None:
    """Before anything is deployed: a deployment to a pool that does not exist creates nothing."""
    import httpx
    from prefect.workers.process import ProcessWorker

    api = f"{prefect_url(settings)}/api"
    with httpx.Client(timeout=30, trust_env=False) as client:
        if client.get(f"{api}/work_pools/{WORK_POOL}").status_code == httpx.codes.OK:
            return
        template = ProcessWorker.get_default_base_job_template()
        made = client.post(
            f"{api}/work_pools/", json={"name": WORK_POOL, "type": "process", "base_job_template": template}
        )
    if made.status_code not in (httpx.codes.CREATED, httpx.codes.CONFLICT):
        raise ServicesError(
            f"the work pool {WORK_POOL} could not be made: {made.status_code} {made.text[:200]}",
            remedy=f"prefect work-pool create {WORK_POOL} --type process",
        )


def _check_label_studio_is_ours(settings: dict, credentials: dict) -> None:
    import httpx

    url = label_studio_url(settings)
    headers = {"Authorization": f"Token {credentials['token']}"}
    answer = httpx.get(f"{url}/api/current-user/whoami", headers=headers, timeout=30, trust_env=False)
    if answer.status_code != httpx.codes.OK:
        raise ServicesError(
            f"Label Studio at {url} does not take the key of credentials.json ({answer.status_code})",
            remedy="its database is another one: restore the folder's label-studio/ and credentials.json together",
        )


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _supervisor(folder: Path) -> Any:
    from flows.supervision import Supervisor

    return Supervisor(folder)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One ``up`` or ``down`` at a time; the kernel frees the lock when its holder dies."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServicesError(
                f"another d3po services command is at work in {folder}", remedy="wait for it, then d3po services status"
            ) from None
        yield
