"""A run's root on a disk and on a real S3 server; child processes that start fast and may be killed."""

import logging
import multiprocessing
import os
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from storage.epoch import Epoch
from storage.run import Run

BUCKET = "runs"


@contextmanager
def s3_server(conditional: bool = True) -> Iterator[str]:
    """A moto server with one bucket, on a free port.

    moto looks whether an object exists and writes it in two steps, between which another thread can write: requests
    are taken one at a time, so that creation is as exclusive as S3's. Without ``conditional`` it is as careless as
    servers that do not know ``If-None-Match``.
    """
    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if not conditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with one_at_a_time:
            return moto(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"), timeout=30).close()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def careless_endpoint() -> Iterator[str]:
    """A server without conditional writes."""
    with s3_server(conditional=False) as endpoint:
        yield endpoint


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
