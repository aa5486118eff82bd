"""Evaluate the snapshots of a run of `recipes.minifaces.generator.train`.

    python -m recipes.minifaces.evaluation.snapshots --run runs/00000-stylegan3-t-minifaces-… \\
        --json docs/minifaces-run.json --picture docs/minifaces-run.png

Appends the Fréchet distance of each snapshot to held-out renders, in features of the judge, to
`metric-fd2k_judge.jsonl` in the run's folder, and rewrites the run's progress page. Snapshots that
are in that file are skipped. --picture takes a screenshot of the page, which needs Chromium.
"""

from __future__ import annotations

import json
from pathlib import Path

import sg3
from recipes.arguments import argument_parser
from recipes.minifaces.evaluation.generator import render_features, sample_images
from recipes.minifaces.judge.model import collect_features, load_judge
from recipes.minifaces.pictures.browser import chromium
from sg3.metrics import frechet_distance
from sg3.training import run_folder
from sg3.training.progress_page import read_jsonl, write_progress_page

METRIC = "fd2k_judge"
NUM = 2000


def measure(run: Path) -> list[dict]:
    """Evaluate snapshots without a record; returns all records, ordered by kimg."""
    path = run / f"metric-{METRIC}.jsonl"
    known = {record["snapshot"] for record in read_jsonl(path)}
    judge = load_judge()
    real = render_features(judge, NUM)
    floor = frechet_distance(render_features(judge, NUM, first=NUM), real)
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


def take_screenshot(page: Path, path: Path) -> None:
    """Write a screenshot of the whole page as PNG."""
    with chromium() as browser:
        view = browser.new_page(viewport={"width": 1180, "height": 900})
        view.goto(page.resolve().as_uri())
        view.screenshot(path=str(path), full_page=True)


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    parser.add_argument("--picture", type=Path, help="PNG file for a screenshot of the page")
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
        take_screenshot(page, args.picture)


if __name__ == "__main__":
    main()
