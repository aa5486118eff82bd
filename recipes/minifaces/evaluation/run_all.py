"""Evaluate the bundled models: encoders, generator, steering.

    python -m recipes.minifaces.evaluation.run_all --outdir docs

Writes minifaces-evaluation.json, minifaces-steering.png (images of the fifty prompts) and
minifaces-control.png (images of the sixty held-out prompts).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch

from recipes.arguments import add_models, argument_parser
from recipes.minifaces.encoder.pairs import HELDOUT_BASE, build
from recipes.minifaces.evaluation.control import evaluate_control
from recipes.minifaces.evaluation.encoder import evaluate_encoder
from recipes.minifaces.evaluation.generator import evaluate_generator
from recipes.minifaces.evaluation.steering import evaluate_steering
from recipes.minifaces.judge.model import load_judge
from recipes.minifaces.provenance import git_commit

ENCODERS = ("mini-a", "mini-b", "mini", "mini-smooth")
PARTS = ("encoder", "generator", "steering", "control")


def run(part: str, network: str, clip: str, outdir: Path) -> dict:
    """Return the results of one part."""
    if part == "encoder":
        data = build(300, HELDOUT_BASE)
        found = {spec: evaluate_encoder(spec, data) for spec in ENCODERS}
        judge = load_judge().provenance
        found["judge"] = {k: v for k, v in judge.items() if k.startswith("accuracy")}
        return found
    if part == "generator":
        return evaluate_generator(network)
    if part == "control":
        return evaluate_control(network, clip, outdir / "minifaces-control.png")
    return evaluate_steering(network, clip, outdir / "minifaces-steering.png", steps=60)


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--outdir", type=Path, default=Path("docs"), help="output folder")
    parser.add_argument(
        "--parts",
        default=",".join(PARTS),
        help="what to evaluate, comma-separated; the results of other parts are kept",
    )
    add_models(parser)
    parser.add_argument("--threads", type=int, default=2, help="number of threads of torch")
    args = parser.parse_args()
    unknown = set(args.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts: got {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    torch.set_num_threads(args.threads)
    args.outdir.mkdir(parents=True, exist_ok=True)
    path = args.outdir / "minifaces-evaluation.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    for part in args.parts.split(","):
        started = time.time()
        report[part] = run(part, args.network, args.clip, args.outdir)
        report[part]["commit"], report[part]["seconds"] = git_commit(), round(time.time() - started)
        shown = {k: v for k, v in report[part].items() if k != "rows"}
        print(part, json.dumps(shown, indent=1), flush=True)
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(temporary, path)


if __name__ == "__main__":
    main()
