"""The page of a run: what the files say, whatever state a crash left them in; and in a browser."""

import json
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from sg3.training.progress_page import MAX_FAKES, MAX_POINTS, write_progress_page


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


def write_lines(path, records, end=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "00003-stylegan3-t-faces-gpus1-batch4-gamma1"
    folder.mkdir()
    write_lines(folder / "stats.jsonl", [tick(k) for k in range(10)])
    options = {"kimg": 100, "cfg": "stylegan3-t", "data": "</script><b>faces.zip"}
    (folder / "training_options.json").write_text(json.dumps(options))
    (folder / "log.txt").write_text("starting from scratch\nadvice: try a larger --gamma\n")
    random = np.random.RandomState(0)
    for name in ("reals", "fakes_init", "fakes000004", "fakes000008"):
        pixels = random.randint(0, 255, [64, 96, 3], np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    record = {"results": {"fid50k_full": 12.5}, "snapshot": "network-snapshot-000008.safetensors"}
    write_lines(folder / "metric-fid50k_full.jsonl", [record])
    return folder


def data_of(folder):
    text = write_progress_page(folder).read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1].replace("<\\/", "</")), text


def series(data, title, name):
    (chart,) = [c for c in data["charts"] if c["title"] == title]
    return next(s for s in chart["series"] if s["name"] == name)


def test_the_page_holds_what_the_files_say(folder):
    data, text = data_of(folder)
    assert series(data, "Loss", "G")["x"] == list(range(10))
    assert series(data, "Loss", "G")["y"] == [1.0 + k / 100 for k in range(10)]
    assert series(data, "Scores of D", "real")["std"] == [0.25] * 10
    assert series(data, "fid50k_full", "fid50k_full") == {
        "name": "fid50k_full", "x": [8.0], "y": [12.5],
    }  # fmt: skip
    assert [f["name"] for f in data["fakes"]] == ["before", "4 kimg", "8 kimg"]
    assert data["advice"] == ["try a larger --gamma"]
    assert ["9.0", "of 100 kimg"] in data["facts"] and ["45m 30s", "to go"] in data["facts"]
    assert data["options"]["data"] == "</script><b>faces.zip"
    assert not data["finished"] and data["share"] == 0.09
    assert not re.search(r'(src|href)\s*=\s*"?(https?:)?//', text)  # nothing from elsewhere


def test_a_cut_line_and_missing_files_are_no_matter(folder):
    with open(folder / "stats.jsonl", "a") as file:
        file.write('{"progress": {"kimg": 10.0, "tot')
    (folder / "fakes000008.png").write_bytes(b"\x89PNG half of it")
    (folder / "reals.png").unlink()
    data, _ = data_of(folder)
    assert series(data, "Loss", "G")["x"][-1] == 9 and data["reals"] is None
    assert [f["name"] for f in data["fakes"]] == ["before", "4 kimg"]


def test_an_empty_folder_has_a_page(tmp_path):
    data, _ = data_of(tmp_path)
    assert data["charts"] == [] and data["facts"] == [["–", "nothing yet"]]


def test_a_run_that_went_back_shows_what_it_did_last(folder):
    again = [tick(k, sec_per_kimg=99.0) for k in (5, 6)]
    write_lines(folder / "stats.jsonl", [*(tick(k) for k in range(10)), *again])
    points = series(data_of(folder)[0], "Seconds per kimg", "seconds")
    assert points["x"] == [0, 1, 2, 3, 4, 5, 6] and points["y"][-2:] == [99.0, 99.0]


def test_not_a_number_is_a_gap(folder):
    (folder / "stats.jsonl").write_text(json.dumps(tick(0, augment_p=float("nan"))) + "\n")
    assert series(data_of(folder)[0], "Augmentation p", "p")["y"] == [None]


def test_a_finished_run_says_so(folder):
    write_lines(folder / "stats.jsonl", [tick(100)])
    data, _ = data_of(folder)
    assert data["finished"] and data["share"] == 1
    assert not any(name == "to go" for _, name in data["facts"])


def test_long_runs_stay_small_and_quick(folder):
    write_lines(folder / "stats.jsonl", [tick(k) for k in range(5000)])
    for k in range(30):
        shutil.copy(folder / "fakes000004.png", folder / f"fakes{100 + k:06d}.png")
    write_progress_page(folder)
    started = time.perf_counter()
    data, text = data_of(folder)
    assert time.perf_counter() - started < 2  # a fifth of a second on a quiet core
    points = series(data, "Loss", "G")["x"]
    assert len(points) <= MAX_POINTS + 1 and points[0] == 0 and points[-1] == 4999
    assert len(data["fakes"]) == MAX_FAKES and data["fakes"][-1]["name"] == "129 kimg"
    assert len(text) < 2e6


@pytest.mark.browser
def test_in_a_browser(folder):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here")
    sync_api = pytest.importorskip("playwright.sync_api")
    path = write_progress_page(folder)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, errors = browser.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(f"file://{path}")
        card = page.locator(".chart[data-title='Loss']")
        assert "G 1.09" in card.locator(".legend").inner_text()
        card.locator("svg").hover(position={"x": 50, "y": 60})
        assert "0 kimg" in card.locator(".legend").inner_text()
        assert page.locator("#fakes span").inner_text() == "8 kimg"
        page.locator("#fakes input").fill("0")
        assert page.locator("#fakes span").inner_text() == "before"
        assert page.locator("#advice p").count() == 1
        assert page.locator("#options td").count() == 6
        browser.close()
    assert errors == []
