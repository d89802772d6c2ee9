"""A real Label Studio for tests, started once and ended with everything it started."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from flows.label_studio_server import (
    CONSTRAINTS,
    ensure_label_studio_env,
    label_studio_command,
    label_studio_environment,
    prepare_database,
)
from flows.service_settings import free_port
from tasks.label_studio.client import LabelStudioClient

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 900.0
DATABASE = "label_studio.sqlite3"
EMAIL = "tester@localhost.localdomain"
PASSWORD = "a-password-of-tests"
KEY = "0123456789abcdef" * 2 + "01234567"


@dataclass(frozen=True, kw_only=True)
class LabelStudioServer:
    """Where a running Label Studio is."""

    url: str
    api_key: str
    document_root: Path
    email: str
    password: str
    data: Path

    def connect(self, **options: float) -> LabelStudioClient:
        return LabelStudioClient.connect(self.url, self.api_key, **options)

    def request(self, method: str, path: str, **options) -> httpx.Response:
        """Straight to its API, for what our client does not do."""
        headers = {"Authorization": f"Token {self.api_key}"}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=60, trust_env=False, **options)

    def media(self, name: str, images: int, size: int = 64) -> list[str]:
        """Write coloured images into a new folder below the document root; their paths relative to it.

        Each has a border in four colours, so that a cropped one can be told.
        """
        folder = self.document_root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            pixels = np.full((size, size, 3), 235, np.uint8)
            pixels[size // 4 : -size // 4, size // 4 : -size // 4] = np.random.default_rng(number).integers(0, 200, 3)
            pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1] = (255, 0, 0), (0, 0, 255), (0, 160, 0), (255, 160, 0)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        return [f"{name}/{number}.png" for number in range(images)]


@contextmanager
def running_label_studio(
    folder: Path, *, template: Path | None = None, database: Mapping[str, str] | None = None
) -> Iterator[LabelStudioServer]:
    """Start a Label Studio in a new folder; on SQLite, a migrated empty database is kept in ``template``.

    The template was made by the same Label Studio in an earlier session, and saves the minute of its migrations.
    """
    env = ensure_label_studio_env(REPOSITORY / ".label-studio-env")
    data, document_root = folder / "data", folder / "document-root"
    document_root.mkdir(parents=True)
    prepare_database(data, database)
    kept = template and kept_database(template)
    if kept and kept.exists():
        shutil.copy(kept, data / DATABASE)
    port = free_port()
    server = LabelStudioServer(
        url=f"http://127.0.0.1:{port}", api_key=KEY, document_root=document_root,
        email=EMAIL, password=PASSWORD, data=data,
    )  # fmt: skip
    environment = label_studio_environment(
        data=data, document_root=document_root, email=server.email, password=server.password, token=server.api_key,
        database=database,
    )  # fmt: skip
    with (folder / "label-studio.log").open("wb") as log:
        process = subprocess.Popen(
            label_studio_command(env, port), env={**os.environ, **environment}, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            _await_health(server, process, folder / "label-studio.log")
            if kept and not kept.exists():
                _keep(data / DATABASE, kept)
            yield server
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def kept_database(template: Path) -> Path:
    """Where the migrated database of this very Label Studio is kept, whose first user is ``EMAIL``."""
    return template / f"{hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:16]}.sqlite3"


def _await_health(server: LabelStudioServer, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if server.request("GET", "/api/current-user/whoami").status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"Label Studio did not start; its last words:\n{log.read_text(errors='replace')[-3000:]}")


def _keep(database: Path, kept: Path) -> None:
    temporary = kept.with_suffix(f".{os.getpid()}")
    source, target = sqlite3.connect(database, timeout=30), sqlite3.connect(temporary)
    source.backup(target)
    target.execute("PRAGMA journal_mode=WAL")
    source.close()
    target.close()
    temporary.replace(kept)
