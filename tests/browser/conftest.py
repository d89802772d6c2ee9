"""A person at a browser: Chromium, logged in, with screenshots kept under ``test-artifacts/browser``."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.label_studio import REPOSITORY, LabelStudioServer


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("D3PO_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            timeout=180_000,
        )
        yield opened
        opened.close()


@pytest.fixture
def person(browser: Browser, label_studio: LabelStudioServer) -> Iterator[Callable[[int, int], Page]]:
    """A logged-in page of a window of this size."""
    contexts = []

    def log_in(width: int, height: int) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.goto(f"{label_studio.url}/user/login/")
        page.fill("input[name=email]", label_studio.email)
        page.fill("input[name=password]", label_studio.password)
        page.press("input[name=password]", "Enter")
        page.wait_for_url(lambda url: "/login" not in url)
        return page

    yield log_in
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def shots() -> Path:
    folder = REPOSITORY / "test-artifacts" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
