"""The page in a headless Chromium, on the bundled models."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("app", reason="gradio is not installed")

pytest.register_assert_rewrite("app_page")

from app_page import source_after  # noqa: E402

pytest_plugins = ["app_page"]  # its fixtures: address, browser, served, visit
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


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


def test_an_error_is_one_line_in_a_toast(visit):
    page = visit(1280)
    page.get_by_role("tab", name="Steer").click()
    page.get_by_label("Text", exact=True).fill("  ")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("prompt: got").wait_for()
    page.locator("button:disabled", has_text="Stop").locator("visible=true").wait_for()
