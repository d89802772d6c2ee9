"""An epoch with synthetic trajectories through a real Label Studio: pushed, answered, pulled."""

from pathlib import Path

import pytest

from benchmarks.large_epoch import (
    answer_everything,
    answers_read_alike,
    judgements_given,
    judgements_pulled,
)
from storage.disk import DiskBackend
from storage.tables import PEOPLE, read_rows
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.label_studio.screens import result_for
from tasks.labels.annotate import simulate_annotators
from tasks.labels.media import media_folder, show_images
from tasks.labels.pull import judgements_of, labels_progress, programmed_values, pull
from tasks.labels.push import push, push_plan, pushed
from tasks.upkeep.forget import PEOPLE_FILE, forget
from tests.support.fault_proxy import FaultProxy
from tests.support.label_studio import DATABASE, LabelStudioServer
from tests.tasks.conftest import with_fields


def test_what_people_said_is_pulled_from_one_export(
    shown: EpochContext, proxy: FaultProxy, label_studio: LabelStudioServer
):
    push.fn(shown)
    answer_everything(shown, label_studio.connect(), label_studio.data / DATABASE)
    assert labels_progress(shown).complete
    before = proxy.count("POST", "/exports")
    pull.fn(shown)
    assert proxy.count("POST", "/exports") == before + 1
    assert judgements_pulled(shown) == judgements_given(shown)
    export = shown.epoch.fetch(shown.epoch.latest("pull"), "export.json.gz")
    assert answers_read_alike(export)
    assert shown.epoch.read_aside("labels/people.parquet")


def test_simulated_judges_have_their_own_biases(
    shown: EpochContext, proxy: FaultProxy, label_studio: LabelStudioServer, monkeypatch: pytest.MonkeyPatch
):
    """Two judges of two objectives; the second has a bias of 1 and so says left whatever it is shown."""
    folder = Path(shown.configuration.storage.root)
    (folder / "by_id.py").write_text(
        "def first(images, prompts):\n    return [1 - row % 2 for row in range(len(images))]\n"
    )
    monkeypatch.syspath_prepend(folder)
    both = with_fields(
        shown,
        labels={"judgements_per_group": 2, "objectives": ["jpeg_compressibility", "first"]},
        programmed={"first": {"kind": "python", "target": "by_id:first"}},
    )
    push.fn(both)
    left = simulate_annotators(both, objectives=["first"], error_rate=0.0, judges=2, biases=[0.0, 1.0])
    assert list(left.values()) == [6, 6]
    assert labels_progress(both).complete
    pull.fn(both)
    unbiased, biased = left
    orders = push_plan(both).orders
    for one in judgements_of(both):
        best = max(zip(one.levels, one.trajectory_ids, strict=True))[1]
        assert best == {unbiased: f"{one.group_id}-0", biased: orders[one.group_id][0]}[one.judge]
    assert {orders[group][0][-1] for group in orders} == {"0", "1"}
    with pytest.raises(UserError, match="3 biases for 2 judges"):
        simulate_annotators(both, objectives=["first"], error_rate=0.0, judges=2, biases=[0.0] * 3)
    with pytest.raises(UserError, match="--mark-below needs a screen of kind mark"):
        simulate_annotators(both, objectives=["first"], error_rate=0.0, judges=2, mark_below=1.0)


MARKED = {"labels": {"source": "people", "screen": "mark"}, "sampling": {"group_size": 3}}


@pytest.mark.parametrize("shown", [MARKED], indirect=True)
def test_a_simulated_standard_that_stays(shown: EpochContext, proxy: FaultProxy):
    """Each image is marked by its own value, however the others of its group are."""
    values = programmed_values(shown, "jpeg_compressibility")
    standard = sorted(values.values())[5]
    push.fn(shown)
    simulate_annotators(shown, objectives=["jpeg_compressibility"], error_rate=0.0, judges=1, mark_below=standard)
    pull.fn(shown)
    said = {
        id: level for one in judgements_of(shown) for id, (level,) in zip(one.trajectory_ids, one.levels, strict=True)
    }
    assert len(said) == 18
    assert {id for id, level in said.items() if level < max(said.values())} == {
        id for id, value in values.items() if value < standard
    }


def test_names_that_were_asked_to_go_are_not_pulled(
    shown: EpochContext, proxy: FaultProxy, label_studio: LabelStudioServer
):
    """And Label Studio's own page of a person can be emptied without losing who said what."""
    push.fn(shown)
    client = label_studio.connect()
    other = client.create_user("charles@example.invalid", "Charles")
    plan, tasks = push_plan(shown), pushed(shown)["ls_tasks"]
    for place, group in enumerate(plan.orders):
        user = other if place % 2 else client.whoami()
        client.annotate(tasks[plan.uid(group)][0], result_for(plan.screen, "left"), user)
    assert forget(shown.run, other) == []
    answered = label_studio.request("PATCH", f"/api/users/{other}/", json={"first_name": "", "last_name": ""})
    assert answered.status_code == 200
    assert client.people({other})[0]["name"] == ""
    pull.fn(shown)
    rows = read_rows(Path(shown.run.location, shown.epoch_key, PEOPLE_FILE), PEOPLE)
    assert [row["user"] for row in rows] == [client.whoami()]
    assert sum(one.judge == f"user:{other}" for one in judgements_of(shown)) == 3


def test_images_of_any_number_of_shards_are_found_by_one_listing(shown: EpochContext, monkeypatch: pytest.MonkeyPatch):
    listed, keys = [], DiskBackend.keys
    monkeypatch.setattr(DiskBackend, "keys", lambda self, prefix: listed.append(prefix) or keys(self, prefix))
    _, urls = show_images(shown)
    assert len(listed) == 1
    folder, _ = media_folder(shown.configuration)
    assert {file.stem for file in folder.rglob("media/*.png")} == set(urls)
    assert len(urls) == 12
