"""The real services: Label Studio, Prefect's server and a worker under supervisord, and what can happen to them."""

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows import services as services_module
from flows.label_studio_server import ENV_VARIABLE, ensure_label_studio_env
from flows.service_settings import load_environment
from flows.services import Services, ServicesError, down, status, up
from flows.supervision import Supervisor, leftovers
from tasks.label_studio.client import LabelStudioClient
from tests.support.label_studio import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """Label Studio's environment is shared with other tests; nothing else of the caller's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENV_VARIABLE, str(ensure_label_studio_env(REPOSITORY / ".label-studio-env")))
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a project with spaces, 100%")


@pytest.fixture(scope="module")
def folder(project: Path) -> Iterator[Path]:
    """Where services run; whatever a test does to them, nothing is left behind."""
    folder = project / ".services"
    start(folder)
    yield folder
    down(folder)
    assert leftovers(folder) == {}


def start(folder: Path, document_root: str = "runs") -> Services:
    up(folder, document_root=folder.parent / document_root, project=folder.parent)
    return answering(folder)


def answering(folder: Path) -> Services:
    """What runs, once all of it answers: within five seconds, on cores on which the worker loads Prefect meanwhile."""
    looked: list[Services] = []
    wait_until(lambda: looked.append(status(folder)) or looked[-1].healthy, 300, "it does not answer")
    return looked[-1]


def wait_until(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


def process_of(found: Services, name: str) -> int:
    detail = next(one.detail for one in found.services if one.name == name)
    return int(detail.removeprefix("pid ").split(",")[0])


def test_everything_answers(folder: Path):
    found = answering(folder)
    assert [one.name for one in found.services] == ["label-studio", "prefect-server", "prefect-worker"]
    token = json.loads(found.credentials_file.read_text())["token"]
    assert LabelStudioClient.connect(found.label_studio_url, token).whoami() > 0
    pool = httpx.get(f"{found.prefect_api_url}/work_pools/{found.work_pool}", trust_env=False).json()
    assert pool["type"] == "process"


def test_second_up_only_looks(folder: Path):
    before = status(folder)
    after = start(folder)
    assert [process_of(after, one.name) for one in after.services] == [
        process_of(before, one.name) for one in before.services
    ]


def test_secrets_are_for_their_owner_only(folder: Path, project: Path):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("credentials.json", "environment", "supervisord.conf"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    credentials = json.loads((folder / "credentials.json").read_text())
    for file in (project / "prefect.toml", folder / "services.json", *folder.glob("logs/*")):
        text = file.read_text(errors="replace")
        assert credentials["token"] not in text
        assert credentials["password"] not in text


def test_shells_find_the_server(folder: Path, project: Path, monkeypatch: pytest.MonkeyPatch):
    found = status(folder)
    assert f'url = "{found.prefect_api_url}"' in (project / "prefect.toml").read_text()
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://elsewhere.invalid")
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.MonkeyPatch.context() as outer:
        outer.setattr(os, "environ", dict(os.environ))
        loaded = load_environment(folder)
        assert loaded["PREFECT_API_URL"] == found.prefect_api_url
        assert "LABEL_STUDIO_URL" not in loaded, "what is set already is kept"
    assert load_environment(folder / "nowhere") == {}


def test_nothing_listens_beyond_this_machine(folder: Path):
    settings = json.loads((folder / "services.json").read_text())
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, port = line.split()[1].split(":")
        if int(port, 16) in (settings["label_studio_port"], settings["prefect_port"]) and line.split()[3] == "0A":
            assert address == "0100007F"


def test_database_lets_readers_read_while_one_writes(folder: Path):
    import sqlite3

    with sqlite3.connect(folder / "label-studio" / "label_studio.sqlite3") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_killed_process_comes_back(folder: Path):
    killed = process_of(status(folder), "label-studio")
    os.kill(killed, signal.SIGKILL)

    def came_back() -> bool:
        found = status(folder)
        return found.healthy and process_of(found, "label-studio") != killed

    wait_until(came_back, 600, "label-studio did not come back")


def test_down_and_up_keep_everything(folder: Path):
    before = status(folder)
    credentials = before.credentials_file.read_text()
    token = json.loads(credentials)["token"]
    from tasks.label_studio.screens import compare_screen

    made = LabelStudioClient.connect(before.label_studio_url, token).ensure_project(
        "kept/1", "kept", compare_screen(), 1, None
    )
    assert set(down(folder)) == {"label-studio", "prefect-server", "prefect-worker"}
    stopped = status(folder)
    assert [one.state for one in stopped.services] == ["STOPPED"] * 3
    assert leftovers(folder) == {}
    assert down(folder) == ()
    after = start(folder)
    assert (after.label_studio_url, after.prefect_url) == (before.label_studio_url, before.prefect_url)
    assert after.credentials_file.read_text() == credentials
    again = LabelStudioClient.connect(after.label_studio_url, token).ensure_project(
        "kept/1", "kept", compare_screen(), 1, None
    )
    assert again == made


def test_another_document_root_restarts_what_needs_it(folder: Path, project: Path):
    before = status(folder)
    after = start(folder, "other-runs")
    assert after.document_root == project / "other-runs"
    assert process_of(after, "label-studio") != process_of(before, "label-studio")
    assert process_of(after, "prefect-server") == process_of(before, "prefect-server")
    start(folder)


def test_a_killed_supervisor_is_cleaned_up_after(folder: Path):
    os.kill(int((folder / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not Supervisor(folder).alive(), 60, "supervisord still answers")
    assert len(leftovers(folder)) >= 3
    with pytest.raises(ServicesError, match=r"(?s)processes of these services still run.*next: d3po services down"):
        start(folder)
    assert len(down(folder)) >= 3
    assert leftovers(folder) == {}
    start(folder)


def test_a_port_that_others_took(folder: Path):
    down(folder)
    port = json.loads((folder / "services.json").read_text())["label_studio_port"]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(
            ServicesError, match=rf"(?s)another program listens on 127\.0\.0\.1:{port}.*next: end that program"
        ):
            start(folder)
    start(folder)


def test_a_process_that_does_not_come_up_says_its_last_words(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        services_module, "label_studio_command", lambda env, port: ["/bin/sh", "-c", "echo no database here; exit 3"]
    )
    with pytest.raises(ServicesError, match=r"(?s)label-studio did not come up.*no database here.*next: see"):
        start(folder)
    monkeypatch.undo()
    start(folder)


def test_a_prefect_toml_of_somebody_else_is_kept(folder: Path, project: Path):
    ours = (project / "prefect.toml").read_text()
    (project / "prefect.toml").write_text('[api]\nurl = "https://elsewhere.invalid/api"\n')
    with pytest.raises(ServicesError, match=r"prefect\.toml is not ours"):
        start(folder)
    assert "elsewhere" in (project / "prefect.toml").read_text()
    (project / "prefect.toml").write_text(ours)


def test_only_one_command_at_a_time(folder: Path):
    import fcntl

    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ServicesError, match="another d3po services command"):
            down(folder)


def test_a_folder_without_services(tmp_path: Path):
    for act in (status, down):
        with pytest.raises(ServicesError, match=r"(?s)there are no services in.*next: d3po services up"):
            act(tmp_path)


def test_settings_of_another_version(tmp_path: Path):
    (tmp_path / "services.json").write_text('{"format": "d3po-services/9"}')
    with pytest.raises(ServicesError, match="d3po-services/9"):
        status(tmp_path)
    (tmp_path / "services.json").write_text("{")
    with pytest.raises(ServicesError, match="damaged"):
        status(tmp_path)


def test_a_named_environment_without_label_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENV_VARIABLE, str(tmp_path))
    with pytest.raises(ServicesError, match="bin/label-studio"):
        ensure_label_studio_env(tmp_path / "env")
