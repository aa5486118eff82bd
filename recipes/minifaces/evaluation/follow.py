"""Fréchet distances of a run of `recipes.minifaces.generator.train`, snapshot by snapshot.

    python -m recipes.minifaces.evaluation.follow --run runs/00000-stylegan3-t-minifaces-… \
        --json docs/minifaces-run.json --picture docs/minifaces-run.png

Adds a line per snapshot to `metric-fd2k_judge.jsonl` in the run's folder, in features of the
attribute judge (`recipes.minifaces.judge.model`) against renders that no run has seen,
and rewrites the
run's page; `--picture` photographs it, which needs Chromium. Snapshots that have their line are
not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

import sg3
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.evaluation.generator import HELDOUT_BASE, sample_images
from recipes.minifaces.judge.model import collect_features, load_judge
from recipes.minifaces.world.renderer import render_seed
from sg3.metrics import frechet_distance
from sg3.training import run_folder
from sg3.training.progress_page import read_jsonl, write_progress_page

METRIC = "fd2k_judge"
NUM = 2000


def render_features(judge, first: int) -> np.ndarray:
    """Features of `NUM` held-out renders."""
    renders = np.stack([render_seed(HELDOUT_BASE + first + i) for i in range(NUM)])
    return collect_features(judge, to_float(renders))


def measure(run: Path) -> list[dict]:
    """Measure what has no line yet; all lines, by kimg."""
    path = run / f"metric-{METRIC}.jsonl"
    known = {record["snapshot"] for record in read_jsonl(path)}
    judge = load_judge()
    real = render_features(judge, 0)
    floor = frechet_distance(render_features(judge, NUM), real)
    for snapshot in sorted(run.glob("network-*.safetensors")):
        if snapshot.name in known:
            continue
        networks = sg3.load(snapshot)
        features = collect_features(judge, sample_images(networks.G_ema, NUM))
        results = {METRIC: round(frechet_distance(features, real), 2), "floor": round(floor, 2)}
        record = {"results": results, "metric": METRIC, "snapshot": snapshot.name}
        record["kimg"] = networks.meta["kimg"]
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{record['kimg']:8.1f} kimg: {results[METRIC]}", flush=True)
    return sorted(read_jsonl(path), key=lambda record: record["kimg"])


def photograph(page: Path, picture: Path) -> None:
    """The whole page as a PNG."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        view = browser.new_page(viewport={"width": 1180, "height": 900})
        view.goto(page.resolve().as_uri())
        view.screenshot(path=str(picture), full_page=True)
        browser.close()


def main() -> None:
    """Measure, rewrite the page, keep the evidence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run's folder")
    parser.add_argument("--json", type=Path, help="numbers of the run")
    parser.add_argument("--picture", type=Path, help="its page as a PNG")
    args = parser.parse_args()
    records = measure(args.run)
    page = write_progress_page(args.run)
    if args.json:
        options = json.loads((args.run / run_folder.OPTIONS).read_text())
        last = read_jsonl(args.run / "stats.jsonl")[-1]["progress"]
        evidence = {
            "options": {k: v for k, v in options.items() if k not in ("outdir", "data")},
            "seconds": round(last["total_seconds"]),
            "sec_per_kimg_last_tick": round(last["sec_per_kimg"], 1),
            "pictures": NUM,
            "distances": [{"kimg": r["kimg"], **r["results"]} for r in records],
        }
        args.json.write_text(json.dumps(evidence, indent=1) + "\n")
    if args.picture:
        photograph(page, args.picture)


if __name__ == "__main__":
    main()
