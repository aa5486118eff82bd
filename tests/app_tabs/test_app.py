"""The page in a headless Chromium, on the bundled models: the main action of each tab."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.register_assert_rewrite("app_page")

from app_page import (  # noqa: E402
    button,
    enabled,
    keep,
    open_tab,
    set_number,
    source_after,
    status_of,
    upload,
)

pytest_plugins = ["app_page"]  # its fixtures: address, browser, served, visit
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_the_seed_the_sliders_and_the_map_change_the_image(visit):
    page = visit(1280)
    first = source_after(page, "The generated image", None)
    page.get_by_label("Seed").first.fill("5")
    second = source_after(page, "The generated image", first)
    set_number(page, "Rotate", "40")
    third = source_after(page, "The generated image", second)
    place = page.get_by_role("application")
    place.focus()
    place.press("ArrowRight")
    fourth = source_after(page, "The generated image", third)
    assert len({first, second, third, fourth}) == 4
    command = page.locator(".command textarea").locator("visible=true")
    page.wait_for_function(
        "e => e.value.includes('pca:0') && e.value.includes('40')", arg=command.element_handle()
    )
    with page.expect_download() as download:
        button(page, "Save PNG").click()
    assert download.value.suggested_filename == "seed0005.png"
    keep(page, "generate-1280")


def test_steering_changes_the_image_and_gives_downloads(visit):
    page = visit(1280)
    open_tab(page, "Steer")
    before = source_after(page, "The image being steered", None)
    set_number(page, "Steps", "10")
    page.get_by_text("Start and space").click()
    set_number(page, "Candidates", "4")
    page.locator("textarea").locator("visible=true").first.fill("a red hat <b>zzz</b>")
    page.get_by_text("Not in the vocabulary of the encoder: b, zzz").wait_for()
    button(page, "Steer").click()
    page.get_by_text("Done after 10 steps").wait_for()
    assert "unknown words: b, zzz" in status_of(page).inner_text()
    source_after(page, "The image being steered", before)
    for label, suffix in (("PNG", ".png"), ("MP4", ".mp4"), ("latent", ".safetensors")):
        with page.expect_download() as download:
            button(page, f"Save {label}").click()
        assert download.value.suggested_filename.endswith(suffix)
        assert Path(download.value.path()).stat().st_size > 500
    keep(page, "steer-1280")


def test_stop_keeps_the_result_on_a_phone_while_others_wait(visit):
    page, other = visit(390), visit(1280)
    open_tab(page, "Steer")
    set_number(page, "Steps", "500")
    page.get_by_text("Start and space").click()
    set_number(page, "Candidates", "4")
    page.get_by_text("a man with a green hat").click()
    page.get_by_text("Step 2").wait_for()
    open_tab(other, "Explore")
    button(other, "Animate").click()
    other.get_by_text("queue: 1/1").wait_for()
    button(page, "Stop").click()
    page.get_by_text("Stopped after").wait_for()
    enabled(page, "Save MP4")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    other.get_by_text(re.compile(r"Frame \d+ of")).wait_for()
    button(other, "Stop").click()
    other.get_by_text("Move the sliders").wait_for()
    keep(page, "steer-390")
    keep(other, "explore-1280")


def test_an_error_is_one_line_in_a_toast(visit):
    page = visit(1280)
    open_tab(page, "Steer")
    page.locator("textarea").locator("visible=true").first.fill("  ")
    button(page, "Steer").click()
    page.get_by_text("prompt: got").wait_for()
    page.locator("button:disabled", has_text="Stop").locator("visible=true").wait_for()
    enabled(page, "Steer")


def test_deltas_are_mixed_and_a_new_one_is_made(visit):
    page = visit(1280)
    open_tab(page, "Adapt")
    before = source_after(page, "Twelve images with the selected deltas", None)
    set_number(page, "Strength 2", "0.9")
    source_after(page, "Twelve images with the selected deltas", before)
    keep(page, "deltas-1280")
    open_tab(page, "New adaptation")
    button(page, "Adapt").click()
    page.get_by_text(re.compile(r"Step [1-9]\d* of 400")).wait_for()
    button(page, "Stop").click()
    page.get_by_text(": stopped; agreement").wait_for()
    enabled(page, "Continue")
    enabled(page, "Save delta")
    keep(page, "adapt-1280")
    open_tab(page, "Mix deltas")
    page.get_by_label("Delta 3").click()
    page.get_by_role("option", name="My delta 1: zombie").wait_for()


def test_a_photo_is_found_and_edited_and_a_bad_one_refused(visit, tmp_path):
    page = visit(1280)
    open_tab(page, "Edit")
    page.get_by_text("a smiling face +2.0").wait_for()
    page.get_by_role("radio", name="Photo").check()
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_text("not an image")
    Image.fromarray(np.full([64, 64, 3], 200, np.uint8)).save(good)
    for path in (bad, good):
        upload(page, path)
        if path is bad:
            button(page, "Find latent").click()
            page.get_by_text("cannot read bad.png").wait_for()
            page.get_by_label(re.compile("Remove|Clear")).locator("visible=true").first.click()
    set_number(page, "Search steps", "10")
    set_number(page, "Tuning steps", "0")
    button(page, "Find latent").click()
    page.get_by_text("Found at a distance").or_(page.get_by_text("a smiling face +2.0")).wait_for()
    set_number(page, "Alpha 1", "2")
    page.get_by_text("a smiling face +2.0").wait_for()
    keep(page, "edit-1280")


def test_a_run_is_planned_started_watched_and_ended(visit, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 255, [16, 16, 3], np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    page = visit(1280)
    open_tab(page, "Train")
    page.get_by_placeholder("/home/me").fill(str(tmp_path))
    page.get_by_label("Length").fill("5")  # a tick is a fiftieth of it
    button(page, "Plan").click()
    page.get_by_text("8 images of 16x16").wait_for()
    page.locator("table.plan td").first.wait_for()
    button(page, "Start training").click()
    page.get_by_text("continues when the page is closed").wait_for()
    page.locator("iframe").scroll_into_view_if_needed()
    inside = page.frame_locator("iframe[title='Progress of the run']")
    inside.get_by_text("kimg").first.wait_for()
    keep(page, "train-1280")
    button(page, "Save and stop").click()
    page.get_by_text("not running").wait_for()
