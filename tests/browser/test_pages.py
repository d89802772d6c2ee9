"""Our pages in a real browser, on a desk and on a phone: nothing is asked for elsewhere, nothing sticks out."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tasks.reports import page
from tasks.reports.figures import side_by_side
from tasks.reports.plots import Line, Panel, bars, differences, panel

LONG = "9c96c61bd0b39ea51abfda05cf2440062454ea7dfbd6e7302bde0f78b8ce4935"
SCREENS = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a page may hold, with texts that somebody means harm by."""
    images = list(np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8))
    curve = Line(name="<b>loss</b>", x=[0, 1, 2], y=[3.0, 2.0, 1.0], low=[2.9, 1.9, 0.9], high=[3.1, 2.1, 1.1])
    plot = Panel(title="loss", x_label="epoch", lines=[curve], level=2.0, level_name="half")
    body = [
        page.tiles([("a very long name of an objective, change", "+0.0792", "95 %: +0.00425 to +0.155")] * 5),
        page.section(
            "Plots",
            page.grid(page.figure(panel(plot), "loss") for _ in range(5)),
            page.figure(differences({"A, η = 1": (0.1, -0.1, 0.3)}, "size", "kB"), "differences"),
            page.figure(bars({"base": (0.2, 0.1, 0.3), "A": (0.8, 0.7, 0.9)}, "win rate", "of all"), "rates"),
            note="<img src=x onerror=alert(1)>",
        ),
        page.section("Images", page.figure(side_by_side({"before": images}, ["a prompt"] * 9), "images", wide=True)),
        page.section("Wide", page.table([f"column {n}" for n in range(12)], [[f"{n}" * 6 for n in range(12)]])),
        page.section("Facts", page.table(("", ""), [("configuration digest", LONG), ("<script>", LONG * 3)])),
        page.section("Nothing to show"),
    ]
    file = tmp_path_factory.mktemp("pages") / "page.html"
    file.write_bytes(page.page("<script>alert(1)</script>", LONG * 2, body))
    return file


@pytest.mark.parametrize("screen", SCREENS)
def test_a_page_is_whole_and_fits(browser: Browser, written: Path, shots: Path, screen: str):
    width, height = SCREENS[screen]
    shown = browser.new_page(viewport={"width": width, "height": height})
    shown.set_default_timeout(180_000)
    asked, said = [], []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: said.append(message.text))
    shown.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    shown.goto(written.as_uri())
    shown.screenshot(path=shots / f"page-{screen}.png", full_page=True)
    assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]
    assert said == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    sizes = shown.evaluate("[...document.images].map(one => [one.naturalWidth, one.getBoundingClientRect().width])")
    assert len(sizes) == 8
    assert all(natural > 0 and drawn > 200 for natural, drawn in sizes)
    assert shown.locator("h1").inner_text() == "<script>alert(1)</script>"
    assert shown.locator(".note").inner_text() == "<img src=x onerror=alert(1)>"
    assert shown.locator("h2").all_inner_texts() == ["Plots", "Images", "Wide", "Facts"]
    shown.close()


def test_plots_can_be_read_without_their_colours(written: Path):
    """Each line says its name; a curve with intervals has them drawn; the same numbers are the same bytes."""
    line = Line(name="preferred", x=[0, 1], y=[0.0, 1.0])
    plot = Panel(title="log-ratio", x_label="epoch", lines=[line])
    svg = panel(plot)
    assert b"preferred" in svg
    assert b"log-ratio" in svg
    assert svg == panel(plot)
