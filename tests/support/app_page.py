"""The page on the bundled models, served once per worker, and a headless Chromium before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from chromium import chromium

app = pytest.importorskip("app", reason="gradio is not installed")

from app_tabs.context import Context  # noqa: E402

#: Where pictures of the tabs go, to be looked at; nowhere if it is not set.
SHOTS = os.environ.get("SG3_SCREENSHOTS")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """What the page runs on, and its address."""
    context = Context("mini-faces", "mini", torch.device("cpu"), tmp_path_factory.mktemp("app"))
    demo, address = app.launch(context, "127.0.0.1", None, share=False)
    yield context, address
    demo.close(verbose=False)


@pytest.fixture(scope="session")
def address(served):
    return served[1]


@pytest.fixture(scope="module")  # no two of Playwright's loops in one process
def browser():
    """A window of Chromium: its pages share what they have loaded, but no session."""
    with chromium() as browser:
        yield browser.new_context()


@pytest.fixture
def visit(browser, address):
    """Open the page at a width; afterwards there were no errors and no outside requests."""
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
        # The page's process may have to compile its loops first, beside busy test workers.
        page.set_default_timeout(120_000)
        page.on("request", note_request)  # Chromium itself finds no other host
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
    """Wait until the picture differs from ``before``; its address."""
    image = page.get_by_alt_text(alt).first
    image.wait_for()
    page.wait_for_function(
        "([alt, old]) => { const i = document.querySelector(`img[alt='${alt}']`);"
        " return i && i.complete && i.naturalWidth > 0 && i.src !== old }",
        arg=[alt, before],
    )
    return image.get_attribute("src")


def keep(page, name: str) -> None:
    """A picture of the page as an artefact."""
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def open_tab(page, name: str) -> None:
    """By its name; on a phone some are behind a menu."""
    tab = page.get_by_role("tab", name=name, exact=True).locator("visible=true")
    if not tab.count():
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).click()
        return
    tab.first.click()


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True).locator("visible=true")


def enabled(page, name: str) -> None:
    """Wait until a button can be pressed."""
    page.locator("button:enabled, a", has_text=name).locator("visible=true").first.wait_for()


def set_number(page, label: str, value: str) -> None:
    field = page.get_by_label(f"number input for {label}").locator("visible=true")
    field.fill(value)
    field.press("Enter")


def upload(page, path: Path) -> None:
    """Choose a file and wait until its row is there.

    The row holds stem and ending apart, so no search for text finds the name in it; the passing
    line of the upload's progress has it whole, but may be gone before anyone looks.
    """
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Drop File Here").locator("visible=true").click()
    chooser.value.set_files(path)
    page.locator(f"td.filename[aria-label='{path.name}']").locator("visible=true").wait_for()


def status_of(page):
    return page.locator("div.status").locator("visible=true").first
