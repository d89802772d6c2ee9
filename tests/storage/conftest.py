"""A run's root on a disk and on a real S3 server; child processes that start fast and may be killed."""

import logging
import multiprocessing
import os
import urllib.request
import uuid
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from storage.epoch import Epoch
from storage.run import Run

BUCKET = "runs"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server with one bucket, on a free port."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"), timeout=30).close()
    yield endpoint
    server.stop()


@pytest.fixture
def s3_environment(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The standard variables, and a cache folder of the test's own."""
    environment = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "D3PO_CACHE": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where runs lie: the same tests on both."""
    if request.param == "disk":
        return str(tmp_path / "runs")
    request.getfixturevalue("s3_environment")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def run(root: str) -> Run:
    """A new run."""
    return Run.create(root, "demo", {"configuration": {"sampling": {"eta": 1.0}}, "model_digest": "ab"})


@pytest.fixture
def epoch(run: Run) -> Epoch:
    """Its first epoch."""
    return run.epoch(0)


@pytest.fixture
def disk_run(tmp_path: Path) -> Run:
    """A new run on the disk, where the test is about disks."""
    return Run.create(str(tmp_path / "runs"), "demo", {})


@pytest.fixture
def child_environment(root: str) -> dict[str, str]:
    """What a child needs in its environment to reach the same root."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "D3PO_"))}


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Children forked from a process that has everything imported and no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.storage.samples"])
    return context
