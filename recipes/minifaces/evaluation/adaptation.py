"""Evaluate adaptations of mini-faces against renders of their targets.

    python -m recipes.minifaces.evaluation.adaptation --outdir docs

For each delta in the folder, on 1000 latents: the Fréchet distance to true renders of the target
before and after adaptation, in features of the judge, which no adaptation was trained on; the
fraction of images that the judge classifies as the target; diversity; and the fraction of images
that keep attributes which should not change. Writes minifaces-nada.json and minifaces-nada.png
(rows: source, adapted, true renders of other identities).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import sg3
from guidance.encoders.mini_vocabulary import CLASSES
from recipes.arguments import argument_parser
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.evaluation.generator import HELDOUT_BASE, sample_images
from recipes.minifaces.judge.model import Judge, collect_features, load_judge
from recipes.minifaces.provenance import git_commit
from recipes.minifaces.world.attributes import sample_attributes, sample_pose
from recipes.minifaces.world.renderer import render
from sg3.checkpoints.delta import apply_deltas, load_delta
from sg3.cli.parsers import DELTAS
from sg3.files import write_text
from sg3.media import image_grid, save_png, to_uint8
from sg3.metrics import frechet_distance
from sg3.metrics.equivariance import draws, psnr, squared_errors

#: Target → domain and style of its true renders.
TARGETS = {
    "zombie": ("zombie", "flat"),
    "robot": ("robot", "flat"),
    "cat": ("cat", "flat"),
    "dog": ("dog", "flat"),
    "alien": ("alien", "flat"),
    "clown": ("clown", "flat"),
    "pencil sketch": ("human", "sketch"),
    "neon": ("human", "neon"),
    "sepia": ("human", "sepia"),
    "pixel art": ("human", "pixel"),
    "pencil sketch from pictures": ("human", "sketch"),
}
#: Attributes that should not change.
KEPT = ("hair_colour", "glasses", "hat", "mouth")
COLUMNS, EQ_IMAGES = 12, 200


@dataclass(frozen=True)
class Judged:
    """Images `[N, 3, H, W]`, with features and classes of the judge."""

    images: Tensor
    features: np.ndarray
    classes: dict[str, Tensor]

    @property
    def spread(self) -> float:
        """Mean distance between the features of two images."""
        return float(torch.pdist(torch.from_numpy(self.features).double()).mean())


def judged(judge: Judge, images: Tensor) -> Judged:
    """Run the judge on `images`."""
    return Judged(images, collect_features(judge, images), judge.classify(images))


def true_renders(target: str, count: int, first: int = 0) -> Tensor:
    """Render held-out identities, `[count, 3, 64, 64]`, in the target's domain and style."""
    domain, style = TARGETS[target]
    seeds = range(HELDOUT_BASE + first, HELDOUT_BASE + first + count)
    images = [render(sample_attributes(s), domain, style, pose=sample_pose(s)) for s in seeds]
    return to_float(np.stack(images))


def compare(target: str, source: Judged, adapted: Judged, truth: Judged) -> dict:
    """Return the results of one target; Fréchet distances are squared.

    Args:
        target: key of `TARGETS`.
        source: images of the source network.
        adapted: images of the adapted network, from the same latents.
        truth: true renders.
    """
    domain, style = TARGETS[target]
    name, value = ("domain", domain) if style == "flat" else ("style", style)
    before = frechet_distance(source.features, truth.features)
    after = frechet_distance(adapted.features, truth.features)
    kept = {n: (adapted.classes[n] == source.classes[n]).double().mean() for n in KEPT}
    return {
        "frechet_before": round(before, 1),
        "frechet_after": round(after, 1),
        "reduction_percent": round(100 * (1 - after / before), 1),
        "judged_as_target": _fraction(adapted, name, value),
        "judged_as_target_before": _fraction(source, name, value),
        "diversity": round(adapted.spread / truth.spread, 3),
        "diversity_before": round(source.spread / truth.spread, 3),
        "kept": {n: round(float(fraction), 3) for n, fraction in kept.items()},
    }


def _fraction(found: Judged, name: str, value: str) -> float:
    return round(float((found.classes[name] == CLASSES[name].index(value)).double().mean()), 3)


def eq_t(G: nn.Module, count: int) -> float:
    """Return EQ-T for integer translations in dB, as metric eqt…_int of `sg3 metrics`."""
    error, pixels = sum(squared_errors(G, d, "eqt_int") for d in draws(G, None, count, seed=0))
    return psnr(float(error), float(pixels))


def evaluate(folder: Path, network: str, count: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Evaluate all deltas in `folder`; returns results and images by target."""
    judge, G = load_judge(), sg3.load(network).G_ema
    source = judged(judge, sample_images(G, count))
    results, images = {}, {"source": to_uint8(source.images[:COLUMNS])}
    eq_before = eq_t(G, EQ_IMAGES)
    for path in sorted(folder.glob("*.safetensors")):
        delta = load_delta(path)
        target = path.stem.replace("-", " ")
        adapted_G = apply_deltas(G, [(delta, 1.0)])
        adapted = judged(judge, sample_images(adapted_G, count))
        truth = judged(judge, true_renders(target, count))
        result = compare(target, source, adapted, truth)
        result["eq_t_change_db"] = round(eq_t(adapted_G, EQ_IMAGES) - eq_before, 2)
        result["kilobytes"] = round(path.stat().st_size / 1000, 1)
        results[path.stem] = result
        images[path.stem] = np.concatenate(
            [to_uint8(adapted.images[:COLUMNS]), to_uint8(truth.images[:COLUMNS])]
        )
        print(path.stem, json.dumps(result), flush=True)
    return results, images


def sheet(images: dict[str, np.ndarray]) -> np.ndarray:
    """Return an image with a row for the source, then an adapted and a true row per target."""
    return image_grid(np.concatenate(list(images.values())), columns=COLUMNS)


def meets_targets(result: dict) -> bool:
    """Return whether distance falls by 70 %, 80 % are judged as target, and diversity is 60 %."""
    return (
        result["reduction_percent"] >= 70
        and result["judged_as_target"] >= 0.8
        and result["diversity"] >= 0.6
    )


def table(results: dict[str, dict]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        "| target | distance before → after | change | judged as target | diversity | "
        "hair / glasses / hat / mouth kept | EQ-T | kB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, line in results.items():
        kept = " / ".join(f"{100 * line['kept'][n]:.0f}" for n in KEPT)
        rows.append(
            f"| {name} | {line['frechet_before']:.0f} → {line['frechet_after']:.0f} | "
            f"−{line['reduction_percent']:.1f} % | {100 * line['judged_as_target']:.0f} % | "
            f"{100 * line['diversity']:.0f} % | {kept} % | {line['eq_t_change_db']:+.1f} dB | "
            f"{line['kilobytes']:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=DELTAS, help="folder of the deltas")
    parser.add_argument("--network", default="mini-faces", help="network of the deltas")
    parser.add_argument("--num", type=int, default=1000, help="number of images per set")
    parser.add_argument("--outdir", type=Path, default=Path("docs"), help="output folder")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.outdir.mkdir(parents=True, exist_ok=True)
    results, images = evaluate(args.folder, args.network, args.num)
    if not results:
        parser.error(f"--folder: no deltas in {args.folder}")
    print(table(results))
    count = sum(map(meets_targets, results.values()))
    print(f"{count} of {len(results)} meet all three targets")
    report = {"pictures": args.num, "commit": git_commit(), "targets": results}
    write_text(args.outdir / "minifaces-nada.json", json.dumps(report, indent=1) + "\n")
    save_png(args.outdir / "minifaces-nada.png", sheet(images))


if __name__ == "__main__":
    main()
