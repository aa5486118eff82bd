"""Does an adapted generator show what the text said? Measured against renders of the target.

    python -m recipes.minifaces.evaluation.adaptation --outdir docs

For every delta in the folder, on 1000 latents: the Fréchet distance to true renders of the target,
before and after, in features of the judge, which no adaptation has seen; the share that the judge
takes for the target; diversity; and whether what should survive does. Writes minifaces-nada.json
and minifaces-nada.png (rows: source, adapted, true renders of other identities).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import sg3
from guidance.encoders.mini_vocabulary import CLASSES
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.encoder.train import git_commit
from recipes.minifaces.evaluation.generator import HELDOUT_BASE, sample_images
from recipes.minifaces.judge.model import Judge, collect_features, load_judge
from recipes.minifaces.world.attributes import sample_attributes, sample_pose
from recipes.minifaces.world.renderer import render
from sg3.checkpoints.delta import apply_deltas, load_delta
from sg3.cli.options import DELTAS
from sg3.files import write_text
from sg3.media import image_grid, save_png, to_uint8
from sg3.metrics import frechet_distance
from sg3.metrics.equivariance import draws, psnr, squared_errors

#: Target text → domain and style of its true renders.
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
#: What a viewer would expect to survive, where the target lets it be seen.
KEPT = ("hair_colour", "glasses", "hat", "mouth")
PICTURES, EQ_PICTURES = 12, 200


@dataclass(frozen=True)
class Seen:
    """Pictures `[N, 3, H, W]` and what the judge makes of them."""

    images: Tensor
    features: np.ndarray
    classes: dict[str, Tensor]

    @property
    def spread(self) -> float:
        """Mean distance between two pictures' features."""
        return float(torch.pdist(torch.from_numpy(self.features).double()).mean())


def look(judge: Judge, images: Tensor) -> Seen:
    """Let the judge look."""
    return Seen(images, collect_features(judge, images), judge.classify(images))


def true_renders(target: str, count: int, first: int = 0) -> Tensor:
    """`[count, 3, 64, 64]` of held-out identities in the target's domain and style."""
    domain, style = TARGETS[target]
    seeds = range(HELDOUT_BASE + first, HELDOUT_BASE + first + count)
    pictures = [render(sample_attributes(s), domain, style, pose=sample_pose(s)) for s in seeds]
    return to_float(np.stack(pictures))


def compare(target: str, source: Seen, adapted: Seen, truth: Seen) -> dict:
    """The line of one target. Distances are squared (Fréchet), shares between 0 and 1."""
    domain, style = TARGETS[target]
    name, value = ("domain", domain) if style == "flat" else ("style", style)
    before = frechet_distance(source.features, truth.features)
    after = frechet_distance(adapted.features, truth.features)
    kept = {n: (adapted.classes[n] == source.classes[n]).double().mean() for n in KEPT}
    return {
        "frechet_before": round(before, 1),
        "frechet_after": round(after, 1),
        "reduction_percent": round(100 * (1 - after / before), 1),
        "judged_as_target": _share(adapted, name, value),
        "judged_as_target_before": _share(source, name, value),
        "diversity": round(adapted.spread / truth.spread, 3),
        "diversity_before": round(source.spread / truth.spread, 3),
        "kept": {n: round(float(share), 3) for n, share in kept.items()},
    }


def _share(seen: Seen, name: str, value: str) -> float:
    return round(float((seen.classes[name] == CLASSES[name].index(value)).double().mean()), 3)


def eq_t(G: nn.Module, count: int) -> float:
    """Peak signal to noise of translations by whole pixels, dB, as `sg3 metrics eqt…_int`."""
    error, pixels = sum(squared_errors(G, d, "eqt_int") for d in draws(G, None, count, seed=0))
    return psnr(float(error), float(pixels))


def evaluate(folder: Path, network: str, count: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Lines and pictures, by target."""
    judge, G = load_judge(), sg3.load(network).G_ema
    source = look(judge, sample_images(G, count))
    lines, pictures = {}, {"source": to_uint8(source.images[:PICTURES])}
    eq_before = eq_t(G, EQ_PICTURES)
    for path in sorted(folder.glob("*.safetensors")):
        delta = load_delta(path)
        target = path.stem.replace("-", " ")
        adapted_G = apply_deltas(G, [(delta, 1.0)])
        adapted = look(judge, sample_images(adapted_G, count))
        truth = look(judge, true_renders(target, count))
        line = compare(target, source, adapted, truth)
        line["eq_t_change_db"] = round(eq_t(adapted_G, EQ_PICTURES) - eq_before, 2)
        line["kilobytes"] = round(path.stat().st_size / 1000, 1)
        lines[path.stem] = line
        pictures[path.stem] = np.concatenate(
            [to_uint8(adapted.images[:PICTURES]), to_uint8(truth.images[:PICTURES])]
        )
        print(path.stem, json.dumps(line), flush=True)
    return lines, pictures


def sheet(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Rows: the source once, then adapted and true of every target."""
    return image_grid(np.concatenate(list(pictures.values())), columns=PICTURES)


def met(line: dict) -> bool:
    """The issue's targets: distance -70 %, share 80 %, diversity 60 %."""
    return (
        line["reduction_percent"] >= 70
        and line["judged_as_target"] >= 0.8
        and line["diversity"] >= 0.6
    )


def table(lines: dict[str, dict]) -> str:
    """For a Markdown page."""
    rows = [
        "| target | distance before → after | change | judged as target | diversity | "
        "hair / glasses / hat / mouth kept | EQ-T | kB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, line in lines.items():
        kept = " / ".join(f"{100 * line['kept'][n]:.0f}" for n in KEPT)
        rows.append(
            f"| {name} | {line['frechet_before']:.0f} → {line['frechet_after']:.0f} | "
            f"−{line['reduction_percent']:.1f} % | {100 * line['judged_as_target']:.0f} % | "
            f"{100 * line['diversity']:.0f} % | {kept} % | {line['eq_t_change_db']:+.1f} dB | "
            f"{line['kilobytes']:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=DELTAS, help="of deltas")
    parser.add_argument("--network", default="mini-faces", help="that the deltas belong to")
    parser.add_argument("--num", type=int, default=1000, help="pictures per set")
    parser.add_argument("--outdir", type=Path, default=Path("docs"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.outdir.mkdir(parents=True, exist_ok=True)
    lines, pictures = evaluate(args.folder, args.network, args.num)
    if not lines:
        parser.error(f"--folder: no deltas in {args.folder}")
    print(table(lines))
    print(f"{sum(map(met, lines.values()))} of {len(lines)} meet all three targets")
    report = {"pictures": args.num, "commit": git_commit(), "targets": lines}
    write_text(args.outdir / "minifaces-nada.json", json.dumps(report, indent=1) + "\n")
    save_png(args.outdir / "minifaces-nada.png", sheet(pictures))


if __name__ == "__main__":
    main()
