"""A project of its own for each test, and a proxy that fails on demand."""

from collections.abc import Iterator

import pytest

from tasks.label_studio.client import LabelStudioClient
from tasks.label_studio.screens import compare_screen, mark_screen
from tests.support.fault_proxy import DRIP, LATE, STALL, FaultProxy, fault_proxy
from tests.support.label_studio import LabelStudioServer
from tests.support.pushed import Pushed, push


@pytest.fixture(scope="session")
def client(label_studio: LabelStudioServer) -> LabelStudioClient:
    return label_studio.connect()


@pytest.fixture
def compared(client: LabelStudioClient) -> Pushed:
    """Six pairs."""
    return push(client, compare_screen(), 6)


@pytest.fixture
def marked(client: LabelStudioClient) -> Pushed:
    """Three groups of four."""
    return push(client, mark_screen(4), 3)


@pytest.fixture
def proxy(label_studio: LabelStudioServer) -> Iterator[FaultProxy]:
    with fault_proxy(label_studio.url) as running:
        yield running


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> float:
    """Seconds to wait for an answer: few where the fault of the test's ``kind`` is that it does not come in time."""
    test = getattr(request.node, "callspec", None)
    return 5.0 if test is not None and test.params.get("kind") in (STALL, LATE, DRIP) else 30.0


@pytest.fixture
def behind(proxy: FaultProxy, label_studio: LabelStudioServer, patience: float) -> LabelStudioClient:
    """A client that reaches Label Studio through the proxy, and waits so long for anything."""
    return LabelStudioClient.connect(proxy.url, label_studio.api_key, seconds=patience)
