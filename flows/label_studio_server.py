"""How our own Label Studio is installed and configured: an environment of its own, no telemetry, loopback only.

Whoever has a Label Studio already gives its address instead (LABEL_STUDIO_URL) and needs nothing of this.
"""

import fcntl
import hashlib
import os
import sqlite3
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import UserError

__all__ = ["ENV_VARIABLE", "ServicesError", "ensure_label_studio_env", "label_studio_environment", "prepare_database"]

ENV_VARIABLE = "D3PO_LABEL_STUDIO_ENV"
CONSTRAINTS = Path(__file__).parents[1] / "constraints-label-studio.txt"
REQUIREMENTS = ("label-studio==1.23.2", "psycopg2-binary")
INSTALL_SECONDS = 1800.0
DATABASE_VARIABLES = (
    "DJANGO_DB", "POSTGRE_NAME", "POSTGRE_USER", "POSTGRE_PASSWORD", "POSTGRE_HOST", "POSTGRE_PORT",
)  # fmt: skip


class ServicesError(UserError):
    """The services cannot be started, reached or stopped, with the next thing to do."""


def ensure_label_studio_env(folder: Path) -> Path:
    """The virtual environment with Label Studio: the one that D3PO_LABEL_STUDIO_ENV names, or one made in ``folder``.

    Its pins and Prefect's exclude each other, hence an environment of its own. An installation that was interrupted is
    taken up again; a finished one costs nothing.

    Raises:
        ServicesError: The named environment has no Label Studio, or pip failed.
    """
    named = os.environ.get(ENV_VARIABLE)
    if named:
        if not (Path(named) / "bin" / "label-studio").is_file():
            raise ServicesError(
                f"{ENV_VARIABLE} names {named}, expected a virtual environment with bin/label-studio in it",
                remedy=f"unset {ENV_VARIABLE}, and one is made",
            )
        return Path(named).resolve()
    folder = folder.resolve()
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    finished = folder / "d3po-installed"
    if not _says(finished, wanted):
        with _alone(folder):
            if not _says(finished, wanted):
                _install(folder)
                finished.write_text(wanted)
    return folder


def label_studio_environment(
    *, data: Path, document_root: Path, email: str, password: str, token: str, database: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables of a Label Studio that serves local files, calls nobody, and makes its first user by itself.

    Args:
        data: Its database (SQLite) and media.
        document_root: The folder whose subfolders it may serve.
        email: The first user's login.
        password: Of that user.
        token: Its API key, 40 hex digits.
        database: ``DJANGO_DB`` and ``POSTGRE_*`` for PostgreSQL; without them SQLite.
    """
    return {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "LABEL_STUDIO_USERNAME": email,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(document_root),
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_CORS_ALLOW_ALL_ORIGINS": "false",
        "LABEL_STUDIO_ALLOWED_HOSTS": "127.0.0.1,localhost",
        # The default, a day, keeps a comparison from everybody when one browser tab was left open.
        "LABEL_STUDIO_TASK_LOCK_TTL": "3600",
        # Label Studio has top-level packages named as ours: none of our paths may reach it.
        "PYTHONPATH": "",
        **(database or {}),
    }


def label_studio_command(env: Path, port: int) -> list[str]:
    """What starts it, in the foreground."""
    command = str(env / "bin" / "label-studio")
    return [command, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]


def prepare_database(data: Path, database: Mapping[str, str] | None = None) -> None:
    """Make the data folder (0700), and an SQLite database whose readers do not block its writer."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if database and database.get("DJANGO_DB", "sqlite") != "sqlite":
        return
    with sqlite3.connect(data / "label_studio.sqlite3", timeout=30) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def _says(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text() == text


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of two that want the same environment, one installs it while the other waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "d3po-installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    log = folder / "pip.log"
    command = [
        str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q",
        "-c", str(CONSTRAINTS), *REQUIREMENTS,
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    try:
        with log.open("wb") as output:
            subprocess.run(
                command, check=True, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=environment, timeout=INSTALL_SECONDS,
            )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise ServicesError(
            f"Label Studio could not be installed in {folder} with Python {sys.version.split()[0]}:\n{tail}",
            remedy=f"see {log}, then d3po services up; or name an environment that has it in {ENV_VARIABLE}",
        ) from error
