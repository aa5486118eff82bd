"""Evaluate inversion: reconstruction of held-out renders, and localization of faces in photos.

    python -m recipes.minifaces.evaluation.inversion --sheet out/inversion.png \\
        --out out/inversion.json
    python -m recipes.minifaces.evaluation.inversion --photos 24
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import sg3
from guidance.encoders import Encoder, load_encoder
from guidance.inversion import Distance, load_distance, project, tune
from guidance.inversion.crops import PhotoCrop, put_back
from guidance.inversion.locate import choose_crop
from guidance.latents import map_latents, seed_latents
from recipes.arguments import argument_parser
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.judge.model import Judge, load_judge
from recipes.minifaces.world.renderer import render_seed
from sg3.files import write_text
from sg3.media import contact_sheet, save_png

#: Identities of no dataset, which have numbers below 10**9.
HELD_OUT = 1_234_500_000
STAGES = ("start", "w", "w+", "tuned")
SHOWN = 8


def held_out(count: int) -> torch.Tensor:
    """Render images `[count, 3, 64, 64]` in [−1, 1] that no network was trained on."""
    return to_float(np.stack([render_seed(HELD_OUT + i) for i in range(count)]))


def invert(
    G: nn.Module, targets: torch.Tensor, distance: Distance, steps: int, tune_steps: int
) -> tuple[dict[str, torch.Tensor], list[nn.Module], dict[str, float]]:
    """Invert `targets` by projection and tuning.

    Projection into W takes `steps`, W+ continues with half as many, and a copy of the network is
    tuned around each latent in W.

    Args:
        G: generator.
        targets: images `[N, 3, H, W]`.
        distance: perceptual distance to minimize.
        steps: steps of the projection into W.
        tune_steps: steps of tuning.

    Returns images by stage, the tuned networks, and CPU seconds per image and stage.
    """
    images, networks, seconds, clock = {}, [], {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.process_time()
        seconds[name], clock = round((now - clock) / len(targets), 2), now

    for step in project(G, targets, distance, steps=steps):
        if step.index == 0:
            images["start"] = step.images
    images["w"], pivots = step.images, step.ws
    lap("w")
    more = {"space": "w+", "start_ws": pivots, "exploration": 0.0}
    images["w+"] = _last(project(G, targets, distance, steps=steps // 2, **more)).images
    lap("w+")
    tuned = []
    for ws, target in zip(pivots.split(1), targets.split(1), strict=True):
        tuning = tune(G, ws, target, distance, steps=tune_steps)
        tuned.append(_last(tuning).image)
        networks.append(tuning.G)
    images["tuned"] = torch.cat(tuned)
    lap("tuned")
    return images, networks, seconds


def _last(steps: Iterator[Any]) -> Any:
    return deque(steps, maxlen=1)[0]


@torch.no_grad()
def _distances(distance: Distance, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (distance.features(images) - distance.features(targets)).square().sum(dim=1)


@torch.no_grad()
def measure(
    images: torch.Tensor, targets: torch.Tensor, distance: Distance, encoder: Encoder, judge: Judge
) -> dict[str, float]:
    """Compare images with their targets.

    Returns the distance that was optimized, and what was not: PSNR in dB, 1 − cosine of an encoder,
    and the fraction of attributes that the judge reads equally.
    """
    shown = images.clamp(-1, 1)
    away = _distances(distance, images, targets)
    ratio = 10 * torch.log10(4 / (shown - targets).square().mean(dim=(1, 2, 3)))
    cosine = (encoder.encode_images(shown) * encoder.encode_images(targets)).sum(dim=1)
    read = [judge.read(x) for x in (shown, targets)]
    alike = [a[name] == b[name] for a, b in zip(*read, strict=True) for name in b]
    found = {"distance": away.mean(), "psnr_db": ratio.mean(), "encoder": (1 - cosine).mean()}
    return {name: round(float(v), 4) for name, v in found.items()} | {
        "attributes_alike": round(float(np.mean(alike)), 3)
    }


@torch.no_grad()
def changed_elsewhere(G: nn.Module, networks: list[nn.Module], count: int = 8) -> float:
    """Return how much tuning changes images of random latents.

    Mean squared difference, relative to that of two random images.
    """
    ws = map_latents(G, seed_latents(77, count, G.z_dim))
    before = G.synthesis(ws)
    usual = (before - before.roll(1, dims=0)).square().mean()
    changes = [(network.synthesis(ws) - before).square().mean() for network in networks]
    return round(float(torch.stack(changes).mean() / usual), 4)


def evaluate_inversion(
    count: int = 32,
    steps: int = 60,
    tune_steps: int = 120,
    distance: str = "scales",
    sheet: Path | None = None,
) -> dict:
    """Evaluate inversion of held-out renders.

    Args:
        count: number of renders.
        steps: steps of the projection into W.
        tune_steps: steps of tuning.
        distance: perceptual distance, "scales" or "lpips".
        sheet: PNG file for the first images.
    """
    G, targets, measured = sg3.load("mini-faces").G_ema, held_out(count), load_distance(distance)
    images, networks, seconds = invert(G, targets, measured, steps, tune_steps)
    encoder, judge = load_encoder("mini-a"), load_judge()
    rows = {s: measure(images[s], targets, measured, encoder, judge) for s in STAGES}
    each = [_distances(measured, images[stage], targets) for stage in ("w", "tuned")]
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        shown = torch.cat([targets[:SHOWN], *(images[s][:SHOWN] for s in STAGES)])
        captions = [name for name in ("render", *STAGES) for _ in targets[:SHOWN]]
        save_png(sheet, contact_sheet(shown, captions, columns=len(targets[:SHOWN])))
    return {
        "pictures": count,
        "distance": distance,
        "stages": rows,
        "tuned_over_w": round(rows["tuned"]["distance"] / rows["w"]["distance"], 3),
        "tuned_under_half_of_w": round(float((each[1] < each[0] / 2).float().mean()), 3),
        "changed_elsewhere": changed_elsewhere(G, networks),
        "cpu_seconds_each": seconds,
    }


def photo_with_a_face(index: int) -> tuple[Image.Image, PhotoCrop]:
    """Return a photo of 400×300 pixels with a rotated held-out render, and where that is."""
    random = np.random.RandomState(index)
    colours = Image.fromarray(random.randint(0, 256, [6, 8, 3], dtype=np.uint8))
    background = colours.resize((400, 300), Image.Resampling.BICUBIC)
    size = random.uniform(80, 220)
    x, y = (random.uniform(size / 2 + 20, n - size / 2 - 20) for n in background.size)
    crop = PhotoCrop(x, y, size, random.uniform(-15, 15))
    return put_back(background, crop, render_seed(HELD_OUT + 1000 + index)), crop


def evaluate_photos(count: int) -> dict:
    """Evaluate the localization of faces.

    Returns the fraction found within a tenth of the side and ten degrees, the median errors, and
    CPU seconds per photo.
    """
    G, errors = sg3.load("mini-faces").G_ema, []
    start = time.process_time()
    for index in range(count):
        photo, true = photo_with_a_face(index)
        found = choose_crop(G, photo)
        place = math.hypot(found.x - true.x, found.y - true.y) / true.size
        errors.append((place, abs(found.size / true.size - 1), abs(found.degrees - true.degrees)))
    near = np.array([place < 0.1 and size < 0.1 and angle < 10 for place, size, angle in errors])
    place, size, angle = np.median(np.array(errors), axis=0).round(3).tolist()
    seconds = round((time.process_time() - start) / count, 1)
    medians = {"place": place, "size": size, "degrees": angle}
    return {"found": round(float(near.mean()), 3), "off_by": medians, "cpu_seconds_each": seconds}


def table(result: dict, write: Callable[[str], None] = print) -> None:
    """Write the results as a table."""
    columns = list(result["stages"]["w"])
    write("stage".ljust(8) + "".join(name.rjust(18) for name in columns))
    for stage, row in result["stages"].items():
        write(stage.ljust(8) + "".join(f"{row[name]:18.4f}" for name in columns))
    write(json.dumps({k: v for k, v in result.items() if k != "stages"}))


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--count", type=int, default=32, help="number of renders")
    parser.add_argument("--steps", type=int, default=60, help="steps of the projection into W")
    parser.add_argument("--tune", type=int, default=120, help="steps of tuning")
    parser.add_argument(
        "--distance", default="scales", choices=("lpips", "scales"), help="perceptual distance"
    )
    parser.add_argument("--sheet", type=Path, help="PNG file for the first images")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument(
        "--photos", type=int, metavar="N", help="localize faces in N photos instead"
    )
    args = parser.parse_args()
    if args.photos:
        print(json.dumps(evaluate_photos(args.photos)))
        return
    found = evaluate_inversion(args.count, args.steps, args.tune, args.distance, args.sheet)
    table(found)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
