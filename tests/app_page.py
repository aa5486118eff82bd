"""The page on the bundled models, served once per worker, and a headless Chromium before it."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# No sandbox: CI runs as root. The rest keeps the browser itself from calling home.
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"

app = pytest.importorskip("app", reason="gradio is not installed")


from app_tabs.context import Context  # noqa: E402


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
    if CHROMIUM is None:
        missing = "no Chromium on this machine (apt-get install chromium)"
        (pytest.fail if os.environ.get("SG3_NEEDS_CHROMIUM") else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Open the page at a width; afterwards there were no errors and no outside requests."""
    opened, complaints = [], []

    def note_request(route):
        url = route.request.url
        if not url.startswith((address, "data:", "blob:")):
            complaints.append(f"outside request: {url}")
            return route.abort()
        return route.continue_()

    def open_at(width: int, height: int = 860):
        page = browser.new_page(viewport={"width": width, "height": height})
        # The page's process may have to compile its loops first, beside busy test workers.
        page.set_default_timeout(120_000)
        page.route("**/*", note_request)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on(
            "console",
            lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None,
        )
        page.goto(address)
        page.get_by_alt_text("The generated image").wait_for()
        opened.append(page)
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
