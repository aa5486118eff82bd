"""The page in a headless Chromium, on the bundled models; and what it is made of, without one."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# No sandbox: CI runs as root. The rest keeps the browser itself from calling home.
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"

app = pytest.importorskip("app", reason="gradio is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    page = app.Page("mini-faces", "mini", torch.device("cpu"), tmp_path_factory.mktemp("app"))
    demo, address = app.launch(page, "127.0.0.1", None, share=False)
    yield address
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
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


@pytest.mark.browser
def test_the_seed_and_the_sliders_change_the_image(visit):
    page = visit(1280)
    first = source_after(page, "The generated image", None)
    page.get_by_label("Seed", exact=True).fill("5")
    second = source_after(page, "The generated image", first)
    angle = page.get_by_label("number input for Rotate")
    angle.fill("40")
    angle.press("Enter")
    third = source_after(page, "The generated image", second)
    assert len({first, second, third}) == 3
    with page.expect_download() as download:
        page.get_by_text("Save PNG").first.click()
    assert download.value.suggested_filename == "seed0005.png"


@pytest.mark.browser
def test_steering_changes_the_image_and_gives_downloads(visit):
    page = visit(1280)
    page.get_by_role("tab", name="Steer").click()
    before = source_after(page, "The image while the text pulls it", None)
    page.get_by_role("button", name="Options").click()
    steps = page.get_by_label("number input for Steps")
    steps.fill("10")
    steps.press("Enter")
    page.get_by_label("Text", exact=True).fill("a man with a red hat zzz")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("Done after 10 steps").wait_for()
    assert "unknown words: zzz" in page.locator("div.status").inner_text()
    source_after(page, "The image while the text pulls it", before)
    for label, suffix in (("Save PNG", ".png"), ("MP4", ".mp4"), ("latent", ".safetensors")):
        with page.expect_download() as download:
            page.get_by_text(label).last.click()
        path = Path(download.value.path())
        assert download.value.suggested_filename.endswith(suffix)
        assert path.stat().st_size > 500


@pytest.mark.browser
def test_stop_keeps_what_there_is_on_a_phone(visit):
    page = visit(390)
    page.get_by_role("tab", name="Steer").click()
    page.get_by_role("button", name="Options").click()
    steps = page.get_by_label("number input for Steps")
    steps.fill("200")
    steps.press("Enter")
    page.get_by_text("a man with a green hat").click()
    page.get_by_text("Step 2").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped after").wait_for()
    assert page.get_by_text("Save MP4").is_enabled()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_an_error_is_one_line_in_a_toast(visit):
    page = visit(1280)
    page.get_by_role("tab", name="Steer").click()
    page.get_by_label("Text", exact=True).fill("  ")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("prompt: got").wait_for()
    assert page.get_by_role("button", name="Stop").is_disabled()


def test_the_page_serves_nothing_but_its_folder(tmp_path):
    page = app.Page("mini-faces", "mini", torch.device("cpu"), tmp_path)
    demo, address = app.launch(page, "127.0.0.1", None, share=False)
    try:
        assert demo.allowed_paths == [str(tmp_path.resolve())]
        assert demo.share is False
        assert not demo.analytics_enabled
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        assert demo.server_name == "127.0.0.1"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    finally:
        demo.close(verbose=False)


def test_a_public_page_ignores_the_network_field(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(app, "_generator", lambda name, device, tab: asked.append(name))
    for fixed in (True, False):
        page = app.Page("mini-faces", "mini", torch.device("cpu"), tmp_path, fixed)
        page.generator("/etc/passwd", "generate")
    assert asked == ["mini-faces", "/etc/passwd"]


def test_the_curve_falls_from_top_to_bottom():
    drawn = app.curve([3.0, 2.0, 1.0])
    assert 'points="0.0,4.0 150.0,40.0 300.0,76.0"' in drawn
    assert "Loss from 3.000 to 1.000" in drawn
    assert "polyline" not in app.curve([1.0])


def test_status_escapes_what_users_typed():
    assert "<b>" not in app.status("<b>")


def test_small_pictures_are_shown_large_and_grey_ones_too():
    assert app.shown(np.zeros([64, 64, 3], np.uint8)).size == (512, 512)
    assert app.shown(np.zeros([32, 64, 1], np.uint8)).size == (512, 256)
    assert app.shown(np.zeros([1024, 1024, 3], np.uint8)).size == (1024, 1024)


def test_the_command_has_help_and_refuses_an_unknown_network(tmp_path):
    assert "Example:" in CliRunner().invoke(app.app_command, ["--help"]).output
    done = CliRunner().invoke(app.app_command, ["--network", "no-such-net"])
    assert isinstance(done.exception, ValueError)
