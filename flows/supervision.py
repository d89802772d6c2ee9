"""Long-lived processes, kept by supervisord: started again when they die, stopped with all their children.

Only the thin layer between us and supervisord: its configuration file, its XML-RPC socket, and what is left behind
when supervisord itself was killed.
"""

import contextlib
import hashlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from supervisor.xmlrpc import Faults, SupervisorTransport, UnixStreamHTTPConnection

from flows.label_studio_server import ServicesError

__all__ = ["Process", "Program", "Supervisor", "leftovers"]

MARK = "D3PO_SERVICES_FOLDER"
"""In the environment of every process that belongs to a services folder, and of its children."""
SOCKET_PATH_LIMIT = 100
RPC_SECONDS = 120.0
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to keep."""

    name: str
    command: Sequence[str]
    folder: Path
    """Its working directory."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of the caller's."""
    stop_signal: str = "TERM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A program as supervisord sees it."""

    name: str
    state: str
    """``RUNNING``, ``STOPPED``, ``STARTING``, ``BACKOFF``, ``FATAL``, ``EXITED`` …"""
    detail: str
    """Since when and with which process id, or why not."""
    log: Path


class Supervisor:
    """The supervisord of one services folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "supervisord.conf"
        self.log = folder / "logs" / "supervisord.log"
        self.socket = _socket_path(folder)

    def write(self, programs: Sequence[Program]) -> None:
        """The configuration file, 0600 because keys stand in it."""
        (self.folder / "logs").mkdir(exist_ok=True)
        text = _supervisord(self) + "".join(_section(program, self.program_log(program.name)) for program in programs)
        write_private(self.configuration, text)

    def program_log(self, name: str) -> Path:
        """Where a program's output goes; rotated."""
        return self.folder / "logs" / f"{name}.log"

    def alive(self) -> bool:
        """Whether supervisord answers."""
        try:
            return self._call("getState")["statename"] == "RUNNING"
        except (OSError, HTTPException, xmlrpc.client.Error):
            return False

    def launch(self) -> None:
        """Start supervisord, which detaches itself; its programs are started one by one.

        Raises:
            ServicesError: It did not come up.
        """
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)]
        started = subprocess.run(
            command, cwd=self.folder, env={**os.environ, MARK: str(self.folder)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=RPC_SECONDS,
        )  # fmt: skip
        deadline = time.monotonic() + RPC_SECONDS
        while started.returncode == 0 and time.monotonic() < deadline:
            if self.alive():
                return
            time.sleep(0.1)
        raise ServicesError(
            f"supervisord did not start in {self.folder}: {started.stderr.strip() or started.stdout.strip() or 'no answer'}",
            remedy=f"see {self.log}, then d3po services up",
        )

    def update(self) -> None:
        """Take over a changed configuration: programs that changed are stopped and taken up anew, others go on."""
        added, changed, removed = self._call("reloadConfig")[0]
        for name in (*changed, *removed):
            self.stop(name)
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)

    def start(self, name: str) -> None:
        """Start a program unless it runs; what becomes of it, its state tells afterwards.

        Raises:
            ServicesError: Its command is not there or is no program.
        """
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            # One that ends before supervisord first looks is refused as one that cannot be spawned; both are tried again.
            if fault.faultCode not in (Faults.ALREADY_STARTED, Faults.SPAWN_ERROR):
                raise ServicesError(
                    f"supervisord does not start {name}: {fault.faultString}",
                    remedy=f"see its command in {self.configuration}, then d3po services up",
                ) from fault

    def stop(self, name: str) -> None:
        """Stop a program and its children, and wait for it.

        Raises:
            ServicesError: It is still there after ``STOP_SECONDS``, supervisord's SIGKILL included.
        """
        with contextlib.suppress(xmlrpc.client.Fault):  # it does not run
            self._call("stopProcess", name, False)
        deadline = time.monotonic() + STOP_SECONDS + 10
        while time.monotonic() < deadline:
            if self.process(name).state in ("STOPPED", "EXITED", "FATAL", "UNKNOWN"):
                return
            time.sleep(0.2)
        raise ServicesError(f"{name} does not stop", remedy=f"see {self.program_log(name)}, then d3po services down")

    def processes(self) -> tuple[Process, ...]:
        """All programs."""
        return tuple(
            Process(
                name=info["name"], state=info["statename"], detail=info["description"] or info["spawnerr"],
                log=self.program_log(info["name"]),
            )
            for info in self._call("getAllProcessInfo")
        )  # fmt: skip

    def process(self, name: str) -> Process:
        """One program; state ``UNKNOWN`` when supervisord has none of this name."""
        unknown = Process(name=name, state="UNKNOWN", detail="", log=self.program_log(name))
        return next((process for process in self.processes() if process.name == name), unknown)

    def shutdown(self) -> None:
        """End supervisord and wait until it is gone."""
        pid = self._call("getPID")
        self._call("shutdown")
        deadline = time.monotonic() + STOP_SECONDS + 10
        while time.monotonic() < deadline:
            if not _runs(pid):
                return
            time.sleep(0.1)
        raise ServicesError(f"supervisord (process {pid}) does not stop", remedy=f"see {self.log}")

    def _call(self, method: str, *arguments: object):
        transport = _Transport(serverurl=f"unix://{self.socket}")
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()


class _Connection(UnixStreamHTTPConnection):
    """With a time limit, which supervisor's own has not."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(RPC_SECONDS)
        self.sock.connect(self.socketfile)


class _Transport(SupervisorTransport):
    def __init__(self, serverurl: str) -> None:
        super().__init__(serverurl=serverurl)

        def connection() -> _Connection:
            made = _Connection("localhost")
            made.socketfile = serverurl.removeprefix("unix://")
            return made

        self._get_connection = connection


def leftovers(folder: Path) -> dict[int, str]:
    """Process id → command of what still runs for this folder; known by the mark in its environment (Linux only)."""
    mark = f"{MARK}={folder}".encode()
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # gone meanwhile, or another user's
            continue
    return {pid: command for pid, command in found.items() if command}


def end_leftovers(folder: Path) -> None:
    """Stop what a killed supervisord left behind: first politely, then not.

    Raises:
        ServicesError: Something is still there.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in leftovers(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if not leftovers(folder):
                return
            time.sleep(0.2)
    raise ServicesError(f"these processes do not stop: {leftovers(folder)}", remedy="ps, to see what they wait for")


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read, at no moment otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _socket_path(folder: Path) -> Path:
    """In the folder, unless its name is longer than a socket's may be."""
    path = folder / "supervisor.sock"
    if len(str(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"d3po-{os.getuid()}-{digest}.sock"


def _supervisord(supervisor: Supervisor) -> str:
    return f"""; Written by d3po services up; keys stand in it.
[unix_http_server]
file={_literal(supervisor.socket)}
chmod=0600

[supervisord]
logfile={_literal(supervisor.log)}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={_literal(supervisor.folder / "supervisord.pid")}
childlogdir={_literal(supervisor.folder / "logs")}
directory={_literal(supervisor.folder)}
silent=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


def _section(program: Program, log: Path) -> str:
    # supervisord runs in the services folder; it expands a log file's path twice, so a folder with % must not be in it.
    environment = ",".join(f'{key}="{_quoted(key, value)}"' for key, value in program.environment.items())
    return f"""
[program:{program.name}]
command={_literal(shlex.join(program.command))}
directory={_literal(program.folder)}
environment={environment}
autostart=false
autorestart=true
startsecs=3
startretries=3
stopsignal={program.stop_signal}
stopasgroup=true
killasgroup=true
stopwaitsecs={STOP_SECONDS:g}
redirect_stderr=true
stdout_logfile=logs/{log.name}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


def _literal(value: object) -> str:
    """supervisord expands ``%(name)s``."""
    return str(value).replace("%", "%%")


def _quoted(name: str, value: str) -> str:
    if any(part in value for part in ('"', "\\", "\n", " ;", " #")):
        raise ServicesError(
            f"supervisord cannot pass on {name}: it has a quote, a backslash, a line break, or ' ;' or ' #' in it",
            remedy="choose another folder or password, then d3po services up",
        )
    return _literal(value)


def _runs(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
