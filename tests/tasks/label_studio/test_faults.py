"""A proxy in front of a real Label Studio that fails after the server has done its work, and before."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.label_studio import client as client_module
from tasks.label_studio import importing
from tasks.label_studio.client import LabelStudioClient
from tasks.label_studio.errors import LabelStudioError, PushConflictError, UnreachableError
from tasks.label_studio.reading import read_export
from tasks.label_studio.screens import compare_screen, result_for
from tests.support import fault_proxy as faults
from tests.support.fault_proxy import FaultProxy
from tests.support.label_studio import LabelStudioServer
from tests.support.pushed import Pushed, items_of, plan_of


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, patience: float):
    """The real limits are for real servers far away."""
    monkeypatch.setattr(importing, "SETTLE_SECONDS", 2.0)
    monkeypatch.setattr(client_module, "IMPORT_SECONDS", patience)
    monkeypatch.setattr(client_module, "LOOK_AGAIN_SECONDS", 0.2)


@pytest.mark.parametrize(
    "kind",
    [
        faults.REFUSE,
        faults.RESET,
        faults.STALL,
        faults.STATUS_502,
        faults.STATUS_408,
        faults.CUT,
        faults.HTML,
        faults.LATE,
    ],
)
def test_an_import_that_fails_is_there_once(
    kind: str,
    proxy: FaultProxy,
    behind: LabelStudioClient,
    client: LabelStudioClient,
    monkeypatch: pytest.MonkeyPatch,
):
    if kind in (faults.STALL, faults.LATE):
        # The server may still be at it when the client gives up; nobody waits longer than until all of it is there.
        monkeypatch.setattr(importing, "SETTLE_SECONDS", 60.0)
    plan = plan_of(compare_screen(), 7)
    project = client.ensure_project(f"{plan.run_id}/3", "demo", plan.screen, 1, None)
    proxy.fail("POST", "/import", kind)
    ls_tasks = behind.import_exactly_once(project, items_of(plan))
    assert [len(tasks) for tasks in ls_tasks.values()] == [1] * 7
    assert client.count(project) == 7
    assert proxy.count("POST", "/import") == (2 if kind == faults.REFUSE else 1)


def test_one_chunk_of_several_fails(
    proxy: FaultProxy, behind: LabelStudioClient, client: LabelStudioClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importing, "CHUNK", 3)
    plan = plan_of(compare_screen(), 8)
    project = client.ensure_project(f"{plan.run_id}/3", "demo", plan.screen, 1, None)
    behind.import_exactly_once(project, items_of(plan)[:2])
    proxy.fail("POST", "/import", faults.RESET)
    proxy.fail("POST", "/import", faults.REFUSE)
    behind.import_exactly_once(project, items_of(plan))
    assert client.count(project) == 8


def test_an_import_that_never_succeeds_says_so(proxy: FaultProxy, behind: LabelStudioClient, client: LabelStudioClient):
    plan = plan_of(compare_screen(), 2)
    project = client.ensure_project(f"{plan.run_id}/3", "demo", plan.screen, 1, None)
    proxy.fail("POST", "/import", faults.REFUSE, times=10)
    with pytest.raises(PushConflictError, match=r"(?s)2 of 2 comparisons did not arrive.*next: d3po run"):
        behind.import_exactly_once(project, items_of(plan))


@pytest.mark.parametrize("kind", [faults.RESET, faults.STALL, faults.STATUS_502, faults.REFUSE])
def test_a_project_is_made_once(
    kind: str, proxy: FaultProxy, behind: LabelStudioClient, label_studio: LabelStudioServer
):
    key = f"made-once-{kind}/1"
    proxy.fail("POST", "/api/projects", kind)
    proxy.fail("POST", "/api/storages/localfiles", kind)
    label_studio.media(key.replace("/", "-"), 1)
    folder = str(label_studio.document_root / key.replace("/", "-"))
    project = behind.ensure_project(key, "demo", compare_screen(), 1, folder)
    everything = label_studio.request("GET", "/api/projects?page_size=1000").json()["results"]
    assert [found["id"] for found in everything if f"[d3po:{key}]" in found["description"]] == [project]
    storages = label_studio.request("GET", f"/api/storages/localfiles?project={project}").json()
    assert [storage["path"] for storage in storages] == [folder]


def test_a_user_is_made_once(proxy: FaultProxy, behind: LabelStudioClient):
    proxy.fail("POST", "/api/users", faults.RESET)
    number = behind.create_user("made-once@example.invalid")
    assert [person["user"] for person in behind.users() if person["email"] == "made-once@example.invalid"] == [number]


@pytest.mark.parametrize("kind", [faults.STATUS_502, faults.RESET, faults.CUT, faults.HTML, faults.DRIP])
def test_reading_goes_on_after_a_fault(kind: str, proxy: FaultProxy, behind: LabelStudioClient, compared: Pushed):
    proxy.fail("GET", "/api/tasks", kind)
    assert behind.import_exactly_once(compared.project, compared.items) == compared.ls_tasks


@pytest.mark.parametrize("kind", [faults.EMPTY, faults.STATUS_502])
def test_a_later_page_that_is_missing_is_noticed(
    kind: str, proxy: FaultProxy, behind: LabelStudioClient, compared: Pushed, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client_module, "PAGE", 2)
    proxy.fail("GET", "page=2", kind)
    assert {
        uid: [task for task, _ in tasks] for uid, tasks in behind.tasks(compared.project).items()
    } == compared.ls_tasks
    proxy.fail("GET", "page=2", kind, times=20)
    with pytest.raises((PushConflictError, UnreachableError)):
        behind.tasks(compared.project)


def test_a_list_of_projects_that_is_cut_short_makes_no_second_project(
    proxy: FaultProxy, behind: LabelStudioClient, client: LabelStudioClient, monkeypatch: pytest.MonkeyPatch
):
    key = "cut-short/1"
    made = client.ensure_project(key, "demo", compare_screen(), 1, None)
    monkeypatch.setattr(client_module, "PAGE", 1)
    proxy.fail("GET", "/api/projects", faults.EMPTY, times=3)
    with pytest.raises(UnreachableError):
        behind.ensure_project(key, "demo", compare_screen(), 1, None)
    proxy.faults.clear()
    assert behind.ensure_project(key, "demo", compare_screen(), 1, None) == made


@pytest.mark.parametrize("kind", [faults.EMPTY, faults.CUT, faults.RESET, faults.STALL, faults.STATUS_502, faults.HTML])
def test_an_export_is_whole_or_asked_again(
    kind: str,
    proxy: FaultProxy,
    behind: LabelStudioClient,
    compared: Pushed,
    tmp_path: Path,
    patience: float,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(client_module, "EXPORT_SECONDS", patience)
    compared.client.annotate(compared.task("g000000"), result_for(compared.plan.screen, "tie"))
    proxy.fail("GET", "/download", kind)
    behind.export(compared.project, tmp_path / "export.json.gz")
    assert len(list(read_export(tmp_path / "export.json.gz"))) == 6
    assert proxy.count("GET", "/download") == 2


@pytest.mark.parametrize("kind", [faults.EMPTY, faults.CUT, faults.RESET])
def test_progress_never_takes_a_fault_for_silence(
    kind: str, proxy: FaultProxy, behind: LabelStudioClient, compared: Pushed
):
    compared.client.annotate(compared.task("g000000"), result_for(compared.plan.screen, "tie"))
    proxy.fail("GET", "/download", kind)
    assert len(list(behind.annotations(compared.project))) == 1
    proxy.fail("GET", "/download", kind, times=10)
    with pytest.raises(LabelStudioError):
        list(behind.annotations(compared.project))


@pytest.mark.parametrize("kind", [faults.EMPTY, faults.DRIP])
def test_an_export_that_stays_broken_is_no_export(
    kind: str,
    proxy: FaultProxy,
    behind: LabelStudioClient,
    compared: Pushed,
    tmp_path: Path,
    patience: float,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(client_module, "EXPORT_SECONDS", patience)
    proxy.fail("GET", "/download", kind, times=10)
    started = time.monotonic()
    with pytest.raises(LabelStudioError):
        behind.export(compared.project, tmp_path / "export.json.gz")
    assert not (tmp_path / "export.json.gz").exists()
    assert time.monotonic() - started < 200


def test_something_else_than_label_studio():
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"hello": "world"}')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UnreachableError, match="not like a Label Studio"):
            LabelStudioClient.connect(f"http://127.0.0.1:{server.server_address[1]}", "f" * 40)
    finally:
        server.shutdown()
        server.server_close()
