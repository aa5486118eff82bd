"""The page on the bundled models, served once per test process, and a headless Chromium."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from chromium import chromium

pytest.importorskip("gradio")

from app_tabs.context import Context
from app_tabs.page import launch

#: Folder for screenshots of the tabs; none if it is not set.
SHOTS = os.environ.get("SG3_SCREENSHOTS")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The context of the page, and its address."""
    context = Context("mini-faces", "mini", torch.device("cpu"), tmp_path_factory.mktemp("app"))
    demo, address = launch(context, "127.0.0.1", None, share=False)
    yield context, address
    demo.close(verbose=False)


@pytest.fixture(scope="session")
def address(served):
    return served[1]


@pytest.fixture(scope="module")  # Playwright allows one event loop per process
def browser():
    """A Chromium context: its pages share a cache, but no session."""
    with chromium() as browser:
        yield browser.new_context()


@pytest.fixture
def visit(browser, address):
    """Open the page at a width; fails at the end if there were errors or outside requests."""
    opened, complaints = [], []

    def note_request(request):
        if not request.url.startswith((address, "data:", "blob:")):
            complaints.append(f"outside request: {request.url}")

    def note_line(message):
        if message.type == "error":
            complaints.append(f"console: {message.text}")

    def open_at(width: int, height: int = 860, query: str = ""):
        page = browser.new_page()
        opened.append(page)
        page.set_viewport_size({"width": width, "height": height})
        # The page may have to compile its loops first, while other tests keep the CPU busy.
        page.set_default_timeout(120_000)
        page.on("request", note_request)  # Chromium itself cannot resolve other hosts
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("console", note_line)
        page.goto(address + query)
        page.get_by_alt_text("The generated image").wait_for()
        return page

    yield open_at
    for page in opened:
        page.close()
    assert not complaints


def source_after(page, alt: str, before: str | None) -> str:
    """Wait until the image differs from ``before``; return its URL."""
    image = page.get_by_alt_text(alt).first
    image.wait_for()
    page.wait_for_function(
        "([alt, old]) => { const i = document.querySelector(`img[alt='${alt}']`);"
        " return i && i.complete && i.naturalWidth > 0 && i.src !== old }",
        arg=[alt, before],
    )
    return image.get_attribute("src")


def keep(page, name: str) -> None:
    """Save a screenshot of the page."""
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def open_tab(page, name: str) -> None:
    """Open a tab by name; on a phone some are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True).locator("visible=true")
    if not tab.count():
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).click()
        return
    tab.first.click()


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True).locator("visible=true")


def enabled(page, name: str) -> None:
    """Wait until a button is enabled."""
    page.locator("button:enabled, a", has_text=name).locator("visible=true").first.wait_for()


def set_number(page, label: str, value: str) -> None:
    field = page.get_by_label(f"number input for {label}").locator("visible=true")
    field.fill(value)
    field.press("Enter")


def upload(page, path: Path) -> None:
    """Choose a file and wait until it is listed.

    The list shows stem and suffix in separate elements, so a search for text does not find the
    name; the upload's progress line contains it, but may disappear too soon.
    """
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Drop File Here").locator("visible=true").click()
    chooser.value.set_files(path)
    page.locator(f"td.filename[aria-label='{path.name}']").locator("visible=true").wait_for()


def status_of(page):
    return page.locator("div.status").locator("visible=true").first
