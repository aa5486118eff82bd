"""The progress page: its content for complete and damaged run folders, and in a browser."""

import json
import re
import shutil
import time

import numpy as np
import pytest
from chromium import chromium
from PIL import Image

from sg3.training.progress_page import (
    MAX_FAKES,
    MAX_POINTS,
    collect_charts,
    write_progress_page,
)


def tick(kimg, **progress):
    return {
        "progress": {
            "tick": int(kimg), "kimg": kimg, "total_seconds": kimg * 30, "sec_per_kimg": 30.0,
            "nonfinite_gradients": 0, "cpu_mem_gb": 2.0, "augment_p": kimg / 1000, **progress,
        },
        "Loss/G/loss": {"num": 100, "mean": 1.0 + kimg / 100, "std": 0.5},
        "Loss/D/loss": {"num": 100, "mean": 0.5, "std": 0.5},
        "Loss/scores/real": {"num": 100, "mean": 0.5, "std": 0.25},
        "Loss/scores/fake": {"num": 100, "mean": None, "std": None},
    }  # fmt: skip


def test_metrics_note_their_best_value_by_direction(tmp_path):
    for name, values in {"eqt50k_int": (40.0, 55.5, 50.0), "mine": (1.0, 2.0, 3.0)}.items():
        snapshots = ("network-000000", "network-000000k512", "network-000004")
        records = [
            {"results": {name: value}, "snapshot": f"{snapshot}.safetensors"}
            for value, snapshot in zip(values, snapshots, strict=True)
        ]
        write_lines(tmp_path / f"metric-{name}.jsonl", records)
    equivariance, unknown = collect_charts(tmp_path, [])
    assert equivariance["series"][0]["x"] == [0, 0.512, 4]
    assert equivariance["note"] == "highest 55.5 at 0.512 kimg" and unknown["note"] == ""


def write_lines(path, records, end=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "00003-stylegan3-t-faces-gpus1-batch4-gamma1"
    folder.mkdir()
    ticks = [tick(k) for k in range(10)]
    ticks[6]["progress"]["augment_p"] = None
    write_lines(folder / "stats.jsonl", ticks)
    options = {"kimg": 100, "cfg": "stylegan3-t", "data": "</script><b>faces.zip"}
    (folder / "config.json").write_text(json.dumps(options))
    (folder / "log.txt").write_text("starting from scratch\nadvice: try a larger `gamma`\n")
    random = np.random.RandomState(0)
    for name in ("reals", "fakes_init", "fakes000004", "fakes000008"):
        pixels = random.randint(0, 255, [64, 96, 3], np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    records = [
        {"results": {"fid50k_full": 80.0}, "snapshot_pkl": "network-snapshot-000000.pkl"},
        {"results": {"fid50k_full": 12.5}, "snapshot": "network-000004.safetensors"},
        {"results": {"fid50k_full": 13.5}, "kimg": 8.2, "snapshot": None},
    ]
    write_lines(folder / "metric-fid50k_full.jsonl", records)
    return folder


def data_of(folder):
    text = write_progress_page(folder).read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1]), text


def series(data, title, name):
    (chart,) = [c for c in data["charts"] if c["title"] == title]
    return next(s for s in chart["series"] if s["name"] == name)


def test_the_page_shows_the_files(folder):
    data, text = data_of(folder)
    assert series(data, "Loss", "G")["x"] == list(range(10))
    assert series(data, "Loss", "G")["y"] == [1.0 + k / 100 for k in range(10)]
    assert series(data, "Scores of D", "real")["std"] == [0.25] * 10
    assert series(data, "fid50k_full", "fid50k_full") == {
        "name": "fid50k_full", "x": [0, 4, 8.2], "y": [80, 12.5, 13.5],
    }  # fmt: skip
    assert data["charts"][0]["note"] == "lowest 12.5 at 4 kimg"
    assert [f["name"] for f in data["fakes"]] == ["untrained", "4 kimg", "8 kimg"]
    assert data["advice"] == ["try a larger `gamma`"]
    assert ["9.0", "of 100 kimg"] in data["facts"] and ["45m 30s", "remaining"] in data["facts"]
    assert data["options"]["data"] == "</script><b>faces.zip"
    assert not data["finished"] and data["fraction"] == 0.09
    assert not re.search(r'(src|href)\s*=\s*"?(https?:)?//', text)  # nothing from elsewhere
    assert text.count("</script>") == 2  # the one in the options is escaped


def test_truncated_and_missing_files_are_skipped(folder):
    with open(folder / "stats.jsonl", "a") as file:
        file.write('{"progress": {"kimg": 10.0, "tot')
    (folder / "fakes000008.png").write_bytes(b"\x89PNG half of it")
    (folder / "reals.png").unlink()
    data, _ = data_of(folder)
    assert series(data, "Loss", "G")["x"][-1] == 9 and data["reals"] is None
    assert [f["name"] for f in data["fakes"]] == ["untrained", "4 kimg"]


def test_an_empty_folder_has_a_page(tmp_path):
    data, _ = data_of(tmp_path)
    assert data["charts"] == [] and data["facts"] == [["–", "no ticks yet"]]


def test_repeated_ticks_appear_once(folder):
    again = [tick(k, sec_per_kimg=99.0) for k in (5, 6)]
    write_lines(folder / "stats.jsonl", [*(tick(k) for k in range(10)), *again])
    points = series(data_of(folder)[0], "Seconds per kimg", "seconds")
    assert points["x"] == [0, 1, 2, 3, 4, 5, 6] and points["y"][-2:] == [99.0, 99.0]


@pytest.mark.parametrize("hole", [float("nan"), None, float("inf"), "text"])
def test_not_a_number_is_a_gap(folder, hole):
    """The trainer writes null for NaN."""
    write_lines(
        folder / "stats.jsonl", [tick(k, augment_p=hole if k == 1 else 0.5) for k in (0, 1, 2)]
    )
    points = series(data_of(folder)[0], "Augmentation p", "p")
    assert points["x"] == [0, 1, 2] and points["y"] == [0.5, None, 0.5]


@pytest.mark.parametrize(
    "name, text",
    [
        ("stats.jsonl", '{"progress": null}\n[1]\n7\n\n'),
        ("stats.jsonl", '{"progress": {"kimg": 1.0, "total_seconds": null}, "Loss/G/loss": 3}\n'),
        ("stats.jsonl", '{"progress": {"kimg": 1.0, "sec_per_kimg": 1e999}}\n'),
        ("config.json", '{"kimg": "many"}'),
        ("config.json", '{"kimg": '),
        ("metric-x.jsonl", '{"results": [1], "kimg": 3}\n{"results": {"x": "good"}, "kimg": 3}\n'),
        ("log.txt", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
        ("reals.png", ""),
    ],
)
def test_no_file_can_stop_the_run(folder, name, text):
    (folder / name).write_text(text)
    assert data_of(folder)[0]["title"] == folder.name


def test_an_image_that_is_too_large_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data, _ = data_of(folder)
    assert data["fakes"] == [] and data["reals"] is None and data["charts"]


def test_the_remaining_time_is_the_eta_of_the_last_tick(folder):
    write_lines(folder / "stats.jsonl", [tick(1), tick(2, eta_seconds=60.0)])
    assert ["1m 00s", "remaining"] in data_of(folder)[0]["facts"]


def test_the_remaining_time_follows_the_median_tick(folder):
    """The last tick may have been slow for other reasons."""
    ticks = [tick(k, sec_per_kimg=300.0 if k in (0, 9) else 30.0) for k in range(10)]
    write_lines(folder / "stats.jsonl", ticks)
    assert ["45m 30s", "remaining"] in data_of(folder)[0]["facts"]


def test_a_finished_run_says_so(folder):
    write_lines(folder / "stats.jsonl", [tick(100)])
    data, _ = data_of(folder)
    assert data["finished"] and data["fraction"] == 1
    assert not any(name == "remaining" for _, name in data["facts"])


def noise(height, width):
    """An image that JPEG cannot compress."""
    return Image.fromarray(np.random.RandomState(0).randint(0, 255, [height, width, 3], np.uint8))


@pytest.mark.slow
def test_long_runs_stay_small_and_quick(folder):
    ticks = [tick(k) for k in range(5000)]
    ticks[777]["Loss/G/loss"]["mean"] = 1e4
    ticks[3333]["Loss/G/loss"]["mean"] = float("nan")
    write_lines(folder / "stats.jsonl", ticks)
    noise(1024, 1024).save(folder / "fakes000004.png")
    shutil.copy(folder / "fakes000004.png", folder / "reals.png")
    for k in range(30):
        shutil.copy(folder / "fakes000004.png", folder / f"fakes{100 + k:06d}.png")
    write_progress_page(folder)
    started = time.perf_counter()
    data, text = data_of(folder)
    assert time.perf_counter() - started < 3  # a third of a second on a quiet core
    points = series(data, "Loss", "G")
    assert len(points["x"]) <= MAX_POINTS and points["x"][0] == 0 and points["x"][-1] == 4999
    assert points["y"][points["x"].index(777)] == 1e4  # no spike is lost
    assert points["y"][points["x"].index(3333)] is None
    assert MAX_FAKES / 2 <= len(data["fakes"]) <= MAX_FAKES
    assert data["fakes"][-1]["name"] == "129 kimg"
    assert len(text) < 2e6


def test_a_new_grid_does_not_change_the_choice_of_old_ones(folder):
    names = [f"fakes{k:06d}.png" for k in range(100, 140)]
    write_progress_page(folder)
    old = {fake["file"] for fake in data_of(folder)[0]["fakes"]}
    for name in names:
        shutil.copy(folder / "fakes000004.png", folder / name)
        now = {fake["file"] for fake in data_of(folder)[0]["fakes"]}
        assert now - old == {name}
        old = now


@pytest.fixture
def opened(folder):
    """Open the page of `folder` in Chromium; check for errors and requests at the end."""
    errors = []
    with chromium() as browser:

        def open_at(width, clock=False):
            page = browser.new_page(viewport={"width": width, "height": 700})
            if clock:
                page.clock.install()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
            page.on(
                "request",
                lambda r: None if r.url.startswith(("data:", "file:")) else errors.append(r.url),
            )
            page.goto(f"file://{write_progress_page(folder)}")
            return page

        yield open_at
    assert errors == []


@pytest.mark.browser
def test_hovering_shows_values(opened):
    page = opened(1280)
    card = page.locator(".chart[data-title='Loss']")
    legend = card.locator(".legend")
    assert "G 1.09" in legend.inner_text()
    card.locator("svg").hover(position={"x": 50, "y": 60})
    assert legend.inner_text().split()[:2] == ["0", "kimg"] and "G 1" in legend.inner_text()
    page.mouse.move(5, 5)
    assert "kimg" not in legend.inner_text()
    scores = page.locator(".chart[data-title='Scores of D']")
    scores.locator("svg").hover(position={"x": 200, "y": 60})
    assert "real 0.5 ± 0.25" in scores.inner_text() and "fake –" in scores.inner_text()
    assert scores.locator("polygon").count() == 1
    gap = page.locator(".chart[data-title='Augmentation p']")
    assert gap.locator("polyline").count() == 2


@pytest.mark.browser
def test_images_options_and_advice_are_shown(opened):
    page = opened(1280)
    label = page.locator("#fakes .scrub span")
    assert label.inner_text() == "8 kimg"
    page.locator("#fakes input").fill("0")
    assert label.inner_text() == "untrained"
    assert page.locator("#fakes a").get_attribute("href") == "fakes_init.png"
    assert page.locator("#reals img").evaluate("e => e.decode().then(() => e.naturalWidth)") == 96
    assert page.locator("#advice p").count() == 1
    assert page.locator("#advice code").inner_text() == "gamma"
    assert page.locator("#options td").count() == 6
    assert "</script><b>faces.zip" in page.locator("#options").text_content()


@pytest.mark.browser
def test_the_page_of_an_active_run_reloads_and_keeps_its_state(opened, folder):
    page = opened(390, clock=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".chart[data-title='Loss'] button").click()
    page.locator("summary").first.click()
    page.evaluate("scrollTo(0, 900)")
    with open(folder / "stats.jsonl", "a") as file:
        file.write(json.dumps(tick(20)) + "\n")
    write_progress_page(folder)
    # Real time passes too: both moments are far from the minute.
    page.clock.run_for(30_000)
    assert "20.0" not in page.locator("#facts").inner_text()
    with page.expect_navigation():
        page.clock.run_for(32_000)
    page.get_by_text("20.0").wait_for()
    page.wait_for_function("scrollY === 900")
    assert page.locator("details").first.get_attribute("open") is not None
    pressed = page.locator(".chart[data-title='Loss'] button").get_attribute("aria-pressed")
    assert pressed == "true"
