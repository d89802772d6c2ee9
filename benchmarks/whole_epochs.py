"""Whole programmed epochs by the operator's own verb, against a Prefect server of their own."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from flows.service_settings import free_port
from tasks.config import Configuration

__all__ = ["prefect_server", "started", "written"]

BIN = Path(sys.executable).parent
SERVER_SECONDS = 120


def written(configuration: Configuration, folder: Path) -> Path:
    """A configuration's file in ``folder``: judged by a programme, its run in ``folder/runs``."""
    programmed = configuration.model_copy(
        update={
            "storage": configuration.storage.model_copy(update={"root": str(folder / "runs")}),
            "labels": configuration.labels.model_copy(update={"source": "programmed"}),
        }
    )
    path = folder / f"{configuration.run}.yaml"
    path.write_text(yaml.safe_dump(programmed.model_dump(mode="json", exclude_none=True)))
    return path


def started(config: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """``d3po run CONFIG --here``, its log on its standard output."""
    command = [BIN / "d3po", "run", str(config), "--here"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """A Prefect server of this measurement's own; yields the environment that finds it."""
    port = free_port()
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.time() + SERVER_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{environment['PREFECT_API_URL']}/health", timeout=5)
                break
            except OSError:
                if time.time() > deadline:
                    raise
                time.sleep(0.5)
        yield environment
    finally:
        server.terminate()
        server.wait(30)
