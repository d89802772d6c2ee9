"""Screens as data; how they look is tested in a browser."""

import xml.etree.ElementTree as ElementTree

import pytest

from tasks.label_studio.parse import PushPlan, parse_export
from tasks.label_studio.screens import (
    COMPARE_VERDICTS,
    compare_screen,
    labeling_digest,
    local_file_url,
    mark_screen,
    result_for,
    task_data,
)

SCREENS = [
    compare_screen(),
    compare_screen(pixelated=True),
    *(mark_screen(k) for k in range(2, 10)),
    mark_screen(7, "not safe"),
]


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: f"{screen.kind}-{screen.group_size}")
def test_one_hotkey_for_each_choice(screen):
    tree = ElementTree.fromstring(screen.labeling_config)
    keys = [choice.get("hotkey") for choice in tree.iter("Choice")]
    assert len(set(keys)) == len(keys)
    assert not {"v", "h", "p"} & set(keys), "hotkeys of Label Studio's own"
    assert len(keys) == (4 if screen.kind == "compare" else screen.group_size + 1)


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: f"{screen.kind}-{screen.group_size}")
def test_data_fills_every_place_on_the_screen(screen):
    data = task_data(screen, "r/0/g", "a prompt", ["/x"] * screen.group_size)
    wanted = {
        element.get("value")[1:]
        for element in ElementTree.fromstring(screen.labeling_config).iter()
        if (element.get("value") or "").startswith("$")
    }
    assert wanted == set(data) - {"uid"}


def test_prompt_never_becomes_html():
    data = task_data(compare_screen(), "r/0/g", "<img src=x onerror=alert(1)>", ["/a", "/b"])
    assert data["prompt"] == "<img src=x onerror=alert(1)>"
    assert "onerror" not in data["html_0"] + data["html_1"]
    tree = ElementTree.fromstring(compare_screen().labeling_config)
    assert [element.tag for element in tree.iter() if element.get("value") == "$prompt"] == ["Text"]


def test_addresses_are_escaped():
    assert local_file_url("a run/1 & 2%.png") == "/data/local-files/?d=a%20run/1%20%26%202%25.png"
    data = task_data(compare_screen(), "r/0/g", "p", ['https://example.org/a?x="1"&y=2', "/b"])
    assert ElementTree.fromstring(data["html_0"].replace(">", "/>")).get("src") == 'https://example.org/a?x="1"&y=2'


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.png", "a/../../x.png"])
def test_paths_stay_below_the_document_root(path: str):
    with pytest.raises(ValueError, match="document root"):
        local_file_url(path)


def test_wrong_numbers_of_images():
    with pytest.raises(ValueError, match="shows 2 images"):
        task_data(compare_screen(), "r/0/g", "p", ["/a"])
    for size in (1, 10):
        with pytest.raises(ValueError, match="2 to 9"):
            mark_screen(size)


@pytest.mark.parametrize("choice", ["", "all_reviewed", 'x"/>', "-x"])
def test_choices_that_cannot_be_shown(choice: str):
    with pytest.raises(ValueError, match="choice"):
        mark_screen(3, choice)


def test_digest_sees_meaning_and_not_white_space():
    config = compare_screen().labeling_config
    assert labeling_digest(config.replace("\n", "\n\t ")) == compare_screen().digest
    assert labeling_digest(config.replace('alias="left"', 'alias="right"')) != compare_screen().digest
    assert labeling_digest(config + "<") != compare_screen().digest
    assert len({screen.digest for screen in SCREENS}) == len(SCREENS)


def test_own_instructions():
    assert compare_screen(instructions="Look closely.").instructions == "Look closely."
    assert compare_screen(instructions="Look closely.").digest == compare_screen().digest


def test_answers_that_the_screen_does_not_offer():
    for act in (
        lambda: result_for(compare_screen(), "middle"),
        lambda: result_for(compare_screen(), "left", marked=[0]),
        lambda: result_for(mark_screen(3), marked=[3]),
        lambda: result_for(mark_screen(3), "left"),
    ):
        with pytest.raises(ValueError, match="screen"):
            act()


@pytest.mark.parametrize("verdict", COMPARE_VERDICTS)
def test_simulated_answers_are_understood(verdict: str):
    plan = PushPlan(run_id="r", epoch=0, screen=compare_screen(), orders={"g": ("g-0", "g-1")})
    annotation = {
        "id": 1,
        "completed_by": 1,
        "updated_at": "2026-01-01T00:00:00Z",
        "result": result_for(plan.screen, verdict),
    }
    parsed = parse_export([{"id": 1, "data": {"uid": "r/0/g"}, "annotations": [annotation]}], plan)
    assert parsed.judgements[0].verdict == ("prefer" if verdict in ("left", "right") else verdict)
