"""What the services keep from one start to the next: ports, folders, credentials, and what others need to reach them.

All of it lies in the services' folder; what holds a key is readable by its owner alone.
"""

import errno
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from flows.label_studio_server import DATABASE_VARIABLES, ServicesError

__all__ = [
    "DEFAULT_FOLDER",
    "ENVIRONMENT_FILE",
    "client_environment",
    "credentials_of",
    "free_port",
    "keep_settings",
    "label_studio_health",
    "label_studio_url",
    "load_environment",
    "prefect_environment",
    "prefect_health",
    "prefect_url",
    "read_settings",
    "write_environment",
    "write_prefect_toml",
]

DEFAULT_FOLDER = Path(".services")
FORMAT = "d3po-services/1"
ENVIRONMENT_FILE = "environment"
PREFECT_TOML_MARK = "# Written by d3po services up"


def load_environment(folder: Path = DEFAULT_FOLDER) -> dict[str, str]:
    """Let this process use the services of a folder: sets what is not set already, and returns what it set."""
    try:
        lines = (folder / ENVIRONMENT_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    loaded = {name: value for name, value in pairs if name not in os.environ}
    os.environ.update(loaded)
    return loaded


def keep_settings(folder: Path, *, document_root: Path, project: Path) -> dict[str, Any]:
    """Ports are chosen once; the folders may change with every ``up``."""
    path = folder / "services.json"
    if path.exists():
        settings = read_settings(folder)
    else:
        label_studio_port = prefect_port = free_port()
        while prefect_port == label_studio_port:
            prefect_port = free_port()
        settings = {"format": FORMAT, "label_studio_port": label_studio_port, "prefect_port": prefect_port}
    settings |= {"document_root": str(document_root), "project": str(project)}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return settings


def read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "services.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ServicesError(f"there are no services in {folder}", remedy="d3po services up") from None
    except json.JSONDecodeError as error:
        raise ServicesError(f"{path} is damaged: {error}", remedy=f"remove {path}, then d3po services up") from None
    if settings.get("format") != FORMAT:
        raise ServicesError(
            f"{path} has the format {settings.get('format')!r}, expected {FORMAT!r}",
            remedy="use the version of d3po that wrote it, or another folder",
        )
    return settings


def credentials_of(folder: Path) -> dict[str, Any]:
    """Made once; the database's variables are taken from the environment of the first ``up``."""
    from flows.supervision import write_private

    path = folder / "credentials.json"
    if not path.exists():
        made = {
            "email": "d3po@localhost.localdomain",
            "password": secrets.token_urlsafe(18),
            "token": secrets.token_hex(20),
            "database": {name: os.environ[name] for name in DATABASE_VARIABLES if name in os.environ},
        }
        write_private(path, json.dumps(made, indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def client_environment(folder: Path, settings: dict, credentials: dict) -> dict[str, str]:
    """What the worker, its flows and ``d3po`` need to know."""
    return {
        **prefect_environment(folder),
        "PREFECT_API_URL": f"{prefect_url(settings)}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "LABEL_STUDIO_URL": label_studio_url(settings),
        "LABEL_STUDIO_API_KEY": credentials["token"],
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": settings["document_root"],
    }


def prefect_environment(folder: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # In memory, the default, a restart of the server terminates every run that holds a deployment's slot.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_CLI_PROMPT": "false",
    }


def write_environment(folder: Path, settings: dict, credentials: dict) -> None:
    from flows.supervision import write_private

    lines = [f"{name}={value}\n" for name, value in client_environment(folder, settings, credentials).items()]
    write_private(folder / ENVIRONMENT_FILE, "".join(lines))


def write_prefect_toml(project: Path, settings: dict) -> None:
    """So that a bare ``prefect deployment run`` in the user's shell meets this server."""
    path = project / "prefect.toml"
    text = f'{PREFECT_TOML_MARK}\n[api]\nurl = "{prefect_url(settings)}/api"\n'
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    if found == text:
        return
    if found and not found.startswith(PREFECT_TOML_MARK):
        raise ServicesError(
            f"{path} is not ours and would send `prefect` to another server than these services",
            remedy=f"move {path} away, then d3po services up",
        )
    path.write_text(text, encoding="utf-8")


def label_studio_url(settings: dict) -> str:
    return f"http://127.0.0.1:{settings['label_studio_port']}"


def prefect_url(settings: dict) -> str:
    return f"http://127.0.0.1:{settings['prefect_port']}"


def label_studio_health(settings: dict) -> str:
    return f"{label_studio_url(settings)}/health"


def prefect_health(settings: dict) -> str:
    return f"{prefect_url(settings)}/api/health"


def free_port() -> int:
    """Below the range that the kernel gives out by itself: nobody is given it before its server is up."""
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as probe:
            # As the servers bind themselves: what a connection left in TIME_WAIT is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
