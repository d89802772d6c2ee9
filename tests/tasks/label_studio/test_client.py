"""Against a real Label Studio: what is found again, what is served, what changed."""

import socket
from pathlib import Path

import pytest

from tasks.label_studio.client import LabelStudioClient
from tasks.label_studio.errors import (
    ProjectGoneError,
    PushConflictError,
    RefusedError,
    ScreenChangedError,
    UnreachableError,
    WrongKeyError,
)
from tasks.label_studio.reading import read_export
from tasks.label_studio.screens import compare_screen, local_file_url, mark_screen, result_for, task_data
from tests.support.label_studio import LabelStudioServer
from tests.support.pushed import Pushed, items_of, plan_of


def test_wrong_key(label_studio: LabelStudioServer):
    with pytest.raises(WrongKeyError, match=r"(?s)does not accept the key.*next: give LABEL_STUDIO_API_KEY"):
        LabelStudioClient.connect(label_studio.url, "f" * 40)


def test_key_that_has_expired(label_studio: LabelStudioServer):
    expired = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.x3M0bKVGBTcNAIpcd5x0fEIYGTrYbTzYlHnUqzDbDfw"
    with pytest.raises(WrongKeyError):
        LabelStudioClient.connect(label_studio.url, expired)


def test_nobody_answers():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens, and nobody else can
        with pytest.raises(UnreachableError, match=r"(?s)nobody answers.*next: d3po services up"):
            LabelStudioClient.connect(f"http://127.0.0.1:{silent.getsockname()[1]}", "f" * 40)


def test_not_an_address():
    with pytest.raises(UnreachableError):
        LabelStudioClient.connect("label studio", "f" * 40)


def test_project_is_found_again(client: LabelStudioClient):
    screen = compare_screen()
    first = client.ensure_project("found-again/1", "demo, epoch 1", screen, 1, None)
    longer = client.ensure_project(
        "found-again/11", "a title that is much longer than Label Studio's fifty", screen, 1, None
    )
    assert client.ensure_project("found-again/1", "another title", screen, 1, None) == first
    assert first != longer


def test_project_with_another_screen_is_refused(client: LabelStudioClient):
    client.ensure_project("other-screen/1", "demo", compare_screen(), 1, None)
    with pytest.raises(ScreenChangedError):
        client.ensure_project("other-screen/1", "demo", mark_screen(3), 1, None)


def test_settings_that_people_meet(client: LabelStudioClient, label_studio: LabelStudioServer):
    project = client.ensure_project("settings/1", "demo", compare_screen(), 3, None)
    found = label_studio.request("GET", f"/api/projects/{project}").json()
    assert (found["maximum_annotations"], found["skip_queue"], found["show_skip_button"]) == (
        3,
        "REQUEUE_FOR_OTHERS",
        True,
    )
    assert not found["show_instruction"]
    assert not found["enable_empty_annotation"]


def test_images_are_served_to_users_only(client: LabelStudioClient, label_studio: LabelStudioServer):
    import httpx

    path = label_studio.media("run with & and %", 1)[0]
    url = local_file_url(path)
    assert label_studio.request("GET", url).status_code == 404
    folder = label_studio.document_root / "run with & and %"
    client.ensure_project("served/1", "demo", compare_screen(), 1, str(folder))
    client.ensure_project("served/1", "demo", compare_screen(), 1, str(folder))
    served = label_studio.request("GET", url)
    assert served.content == (label_studio.document_root / path).read_bytes()
    assert httpx.get(label_studio.url + url, trust_env=False).status_code == 401


def test_document_root_itself_cannot_be_served(client: LabelStudioClient, label_studio: LabelStudioServer):
    with pytest.raises(RefusedError, match="subdirectory"):
        client.ensure_project("root/1", "demo", compare_screen(), 1, str(label_studio.document_root))


def test_changed_screen(compared: Pushed, label_studio: LabelStudioServer):
    compared.client.check_screen(compared.project, compared.plan.screen)
    config = compared.plan.screen.labeling_config
    label_studio.request(
        "PATCH", f"/api/projects/{compared.project}", json={"label_config": config.replace("\n", "\n   ")}
    ).raise_for_status()
    compared.client.check_screen(compared.project, compared.plan.screen)
    label_studio.request(
        "PATCH", f"/api/projects/{compared.project}", json={"label_config": config.replace('hotkey="1"', 'hotkey="7"')}
    ).raise_for_status()
    with pytest.raises(ScreenChangedError, match=compared.plan.screen.digest[:16]):
        compared.client.check_screen(compared.project, compared.plan.screen)


def test_deleted_project(compared: Pushed, label_studio: LabelStudioServer, tmp_path: Path):
    assert label_studio.request("DELETE", f"/api/projects/{compared.project}").status_code == 204
    for act in (
        lambda: compared.client.check_screen(compared.project, compared.plan.screen),
        lambda: list(compared.client.annotations(compared.project)),
        lambda: compared.client.export(compared.project, tmp_path / "export.json.gz"),
        lambda: compared.client.import_exactly_once(compared.project, compared.items),
    ):
        with pytest.raises(ProjectGoneError, match="no project"):
            act()
    with pytest.raises(ProjectGoneError, match="no task"):
        compared.client.annotate(compared.task("g000000"), result_for(compared.plan.screen, "left"))


def test_import_again_changes_nothing(compared: Pushed):
    assert compared.client.import_exactly_once(compared.project, compared.items) == compared.ls_tasks
    assert compared.client.count(compared.project) == len(compared.items)


def test_import_goes_on_where_it_ended(client: LabelStudioClient):
    plan = plan_of(compare_screen(), 5)
    project = client.ensure_project(f"{plan.run_id}/3", "demo", plan.screen, 1, None)
    first = client.import_exactly_once(project, items_of(plan)[:2])
    whole = client.import_exactly_once(project, items_of(plan))
    assert {uid: whole[uid] for uid in first} == first
    assert sorted(len(tasks) for tasks in whole.values()) == [1] * 5


def test_import_with_another_order_is_refused(compared: Pushed):
    swapped = [{**item, "html_0": item["html_1"], "html_1": item["html_0"]} for item in compared.items]
    with pytest.raises(PushConflictError, match=r"html_0, html_1"):
        compared.client.import_exactly_once(compared.project, swapped)


def test_import_of_one_uid_twice_is_a_mistake(compared: Pushed):
    with pytest.raises(ValueError, match="distinct uids"):
        compared.client.import_exactly_once(compared.project, [compared.items[0], compared.items[0]])


def test_prompts_of_any_kind_come_back_as_they_were(client: LabelStudioClient):
    prompts = ['<script>alert("x")</script> & "q"', "ein Bär, 熊, 🐻", "$undefined$ {{x}} %s", "a\tb", " spaces "]
    screen = compare_screen()
    project = client.ensure_project("prompts/1", "demo", screen, 1, None)
    items = [task_data(screen, f"prompts/1/{n}", prompt, ["/a", "/b"]) for n, prompt in enumerate(prompts)]
    client.import_exactly_once(project, items)
    found = client.tasks(project)
    assert [found[item["uid"]][0][1]["prompt"] for item in items] == prompts


def test_simulated_users_are_found_again(client: LabelStudioClient):
    first = client.create_user("simulated-1@example.invalid", "Simulated One")
    assert client.create_user("simulated-1@example.invalid") == first
    assert first != client.whoami()


def test_people_are_those_who_judged(compared: Pushed):
    other = compared.client.create_user("other@example.invalid", "Other Person")
    compared.client.create_user("idle@example.invalid")
    compared.client.annotate(compared.task("g000000"), result_for(compared.plan.screen, "left"), user=other)
    assert compared.client.people(compared.parsed().people) == [
        {"user": other, "name": "Other Person", "email": "other@example.invalid"}
    ]


def test_export_names_nobody(compared: Pushed, label_studio: LabelStudioServer, tmp_path: Path):
    compared.client.annotate(compared.task("g000000"), result_for(compared.plan.screen, "left"), seconds=2.5)
    draft = {"result": result_for(compared.plan.screen, "right"), "lead_time": 1.0}
    label_studio.request("POST", f"/api/tasks/{compared.task('g000001')}/drafts", json=draft).raise_for_status()
    compared.client.export(compared.project, tmp_path / "export.json.gz")
    records = list(read_export(tmp_path / "export.json.gz"))
    assert len(records) == len(compared.items)
    assert label_studio.email not in str(records)
    assert [len(record["drafts"]) for record in records] == [0, 1, 0, 0, 0, 0]
    assert compared.parsed().judgements[0].seconds == 2.5


def test_export_leaves_nothing_on_the_server(compared: Pushed, label_studio: LabelStudioServer, tmp_path: Path):
    compared.client.export(compared.project, tmp_path / "export.json.gz")
    list(compared.client.annotations(compared.project))
    assert label_studio.request("GET", f"/api/projects/{compared.project}/exports/").json() == []
    assert not [
        file for file in (label_studio.data / "export").rglob("*") if f"project-{compared.project}-" in file.name
    ]


def test_two_exports_of_the_same_answers_are_the_same(compared: Pushed, tmp_path: Path):
    compared.client.annotate(compared.task("g000000"), result_for(compared.plan.screen, "left"))
    for name in ("a", "b"):
        compared.client.export(compared.project, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
