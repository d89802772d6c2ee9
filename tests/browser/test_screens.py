"""The screens as people meet them: whole pictures, nothing below the edge, hotkeys that arrive as judgements."""

import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from tasks.label_studio.client import LabelStudioClient
from tasks.label_studio.parse import ParsedAnnotations, PushPlan, parse_export
from tasks.label_studio.screens import Screen, compare_screen, local_file_url, mark_screen, task_data
from tests.support.label_studio import LabelStudioServer

SHORT = "a red circle on a striped background"
LONG = (
    "a photograph of an astronaut riding a horse across a wide red desert at dawn, two moons above the horizon, long "
    "shadows, fine dust in the air, extremely detailed, in the style of a nineteenth century engraving with watercolour"
)
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> & <b>bold</b>'
IMAGES = ".d3po-cell img"
_runs = itertools.count()


class Shown:
    """Comparisons of one screen in Label Studio, and a person before them."""

    def __init__(self, server: LabelStudioServer, screen: Screen, prompts: list[str], size: int = 64) -> None:
        self.client: LabelStudioClient = server.connect()
        name = f"browser-{next(_runs)}"
        paths = server.media(name, screen.group_size, size)
        orders = {
            f"g{group:06d}": tuple(f"g{group:06d}-{image}" for image in range(screen.group_size))
            for group in range(len(prompts))
        }
        self.plan = PushPlan(run_id=name, epoch=0, screen=screen, orders=orders)
        self.project = self.client.ensure_project(f"{name}/0", name, screen, 1, str(server.document_root / name))
        self.client.import_exactly_once(
            self.project,
            [
                task_data(screen, self.plan.uid(group), prompt, [local_file_url(path) for path in paths])
                for group, prompt in zip(orders, prompts, strict=True)
            ],
        )

    def open(self, page: Page) -> None:
        page.goto(self.client.project_url(self.project))
        wait_for_images(page, self.plan.screen.group_size)

    def parsed(self) -> ParsedAnnotations:
        return parse_export(self.client.annotations(self.project), self.plan)

    def wait_for(self, count: int) -> ParsedAnnotations:
        """Until so many annotations have arrived."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            parsed = self.parsed()
            if len(parsed.judgements) + len(parsed.skips) + len(parsed.set_aside) >= count:
                return parsed
            time.sleep(0.3)
        raise AssertionError(f"{count} annotations were expected, there are {self.parsed()}")


def wait_for_images(page: Page, count: int) -> None:
    page.wait_for_function(
        "count => { const all = [...document.querySelectorAll('.d3po-cell img')];"
        " return all.length === count && all.every(image => image.complete && image.naturalWidth > 0) }",
        arg=count,
    )


def wait_for_task(page: Page, prompt: str, images: int) -> None:
    """Until the comparison of this prompt is there, with its pictures and hotkeys."""
    page.wait_for_function(
        "text => document.querySelector('.d3po-prompt')?.innerText.trim() === text",
        arg=prompt,
    )
    wait_for_images(page, images)
    page.wait_for_timeout(700)  # nothing on the page tells that the hotkeys are bound


def boxes(page: Page, selector: str) -> list[dict]:
    """Where elements are, and whether a point in the middle of each is on top and not covered."""
    return page.eval_on_selector_all(
        selector,
        """all => all.map(element => {
            const box = element.getBoundingClientRect()
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height - 2)
            return {x: box.x, y: box.y, width: box.width, height: box.height,
                    visible: top === element || element.contains(top)}
        })""",
    )


def assert_whole(page: Page, box: dict) -> None:
    """All four coloured borders of the picture are on the screen: it is neither cropped nor covered."""
    clip = {key: box[key] for key in ("x", "y", "width", "height")}
    seen = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")).astype(int)
    middle = (seen.shape[0] // 2, seen.shape[1] // 2)
    edges = {
        "top": (seen[1, middle[1]], (255, 0, 0)),
        "bottom": (seen[-2, middle[1]], (0, 0, 255)),
        "left": (seen[middle[0], 1], (0, 160, 0)),
        "right": (seen[middle[0], -2], (255, 160, 0)),
    }
    for edge, (found, expected) in edges.items():
        assert np.abs(found - expected).max() < 30, f"the {edge} edge of the picture is {found}, not {expected}"


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    ("screen", "window"),
    [
        (compare_screen(pixelated=True), (1280, 720)),
        (compare_screen(pixelated=True), (1920, 1080)),
        (mark_screen(7, pixelated=True), (1440, 900)),
        (mark_screen(7, pixelated=True), (1280, 720)),
        (mark_screen(9, pixelated=True), (1440, 900)),
        (mark_screen(3, pixelated=True), (1440, 900)),
    ],
    ids=[
        "compare-1280x720",
        "compare-1920x1080",
        "mark7-1440x900",
        "mark7-1280x720",
        "mark9-1440x900",
        "mark3-1440x900",
    ],
)
def test_everything_is_seen_without_scrolling(
    screen: Screen,
    window: tuple[int, int],
    prompt: str,
    label_studio: LabelStudioServer,
    person: Callable[[int, int], Page],
    shots: Path,
):
    shown = Shown(label_studio, screen, [prompt])
    page = person(*window)
    shown.open(page)
    length = "short" if prompt == SHORT else "long"
    page.screenshot(path=shots / f"{screen.kind}-{screen.group_size}-{window[0]}x{window[1]}-{length}.png")
    pictures, answers = boxes(page, IMAGES), boxes(page, ".lsf-choice__item")
    assert len(pictures) == screen.group_size
    assert len(answers) == (4 if screen.kind == "compare" else screen.group_size + 1)
    for box in (*pictures, *answers, *boxes(page, ".d3po-prompt"), *boxes(page, ".d3po-hint")):
        assert box["visible"], box
        assert 0 <= box["x"] <= box["x"] + box["width"] <= window[0]
        assert 0 <= box["y"] <= box["y"] + box["height"] <= window[1]
    for box in pictures:
        assert abs(box["width"] - box["height"]) < 1.5, "square pictures stay square"
        assert box["height"] >= (150 if screen.group_size > 3 else 300)
        assert_whole(page, box)


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 512])
def test_pictures_of_any_size_are_whole(
    size: int, label_studio: LabelStudioServer, person: Callable[[int, int], Page], shots: Path
):
    shown = Shown(label_studio, compare_screen(), [SHORT], size)
    page = person(1280, 720)
    shown.open(page)
    page.screenshot(path=shots / f"compare-of-{size}-pixels.png")
    natural = page.eval_on_selector_all(IMAGES, "all => all.map(image => [image.naturalWidth, image.naturalHeight])")
    assert natural == [[size, size]] * 2
    for box in boxes(page, IMAGES):
        assert box["visible"]
        assert box["height"] >= 300


@pytest.mark.slow
def test_pairs_are_judged_by_hotkeys(label_studio: LabelStudioServer, person: Callable[[int, int], Page], shots: Path):
    prompts = [f"{SHORT} {number}" for number in range(5)]
    shown = Shown(label_studio, compare_screen(pixelated=True), prompts)
    page = person(1280, 720)
    shown.open(page)
    for number, key in enumerate("1234"):
        wait_for_task(page, prompts[number], 2)
        page.keyboard.press(key)
        if key == "2":
            page.screenshot(path=shots / "compare-chosen.png")
        page.keyboard.press("Control+Enter")
        shown.wait_for(number + 1)
    wait_for_task(page, prompts[4], 2)
    page.keyboard.press("Control+Space")
    parsed = shown.wait_for(5)
    assert [(one.group_id, one.verdict) for one in parsed.judgements] == [
        ("g000000", "prefer"), ("g000001", "prefer"), ("g000002", "tie"), ("g000003", "both_bad"),
    ]  # fmt: skip
    assert [one.levels for one in parsed.judgements[:2]] == [((1.0,), (0.0,)), ((0.0,), (1.0,))]
    assert [one.group_id for one in parsed.skips] == ["g000004"]
    assert parsed.set_aside == []
    assert all(one.seconds and one.seconds > 0 for one in parsed.judgements)


@pytest.mark.slow
def test_a_group_of_seven_is_judged_by_hotkeys(
    label_studio: LabelStudioServer, person: Callable[[int, int], Page], shots: Path
):
    prompts = [f"{SHORT} {number}" for number in range(2)]
    shown = Shown(label_studio, mark_screen(7, pixelated=True), prompts)
    page = person(1440, 900)
    shown.open(page)
    wait_for_task(page, prompts[0], 7)
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(1500)
    assert shown.parsed().judgements == [], "without 'all reviewed' nothing is submitted"
    page.screenshot(path=shots / "mark-not-reviewed.png")
    page.keyboard.press("Escape")
    for key in "5770":
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    page.screenshot(path=shots / "mark-chosen.png")
    page.keyboard.press("Control+Enter")
    shown.wait_for(1)
    wait_for_task(page, prompts[1], 7)
    page.keyboard.press("0")
    page.keyboard.press("Control+Enter")
    parsed = shown.wait_for(2)
    marks = [[position for position, level in enumerate(one.levels) if level == (-1.0,)] for one in parsed.judgements]
    assert marks == [[1, 4], []], "a second press takes a mark back"
    assert parsed.set_aside == []


@pytest.mark.slow
def test_a_prompt_is_text(label_studio: LabelStudioServer, person: Callable[[int, int], Page], shots: Path):
    shown = Shown(label_studio, compare_screen(), [HOSTILE])
    page = person(1280, 720)
    shown.open(page)
    page.screenshot(path=shots / "compare-hostile-prompt.png")
    assert page.inner_text(".d3po-prompt").strip() == HOSTILE
    assert page.evaluate("window.hacked") is None
