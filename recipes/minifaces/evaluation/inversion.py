"""Inversion of held-out renders: how near the network comes to pictures that it never saw.

python -m recipes.minifaces.evaluation.inversion --sheet out/inversion.png --out out/inversion.json
python -m recipes.minifaces.evaluation.inversion --photos 24
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

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
from recipes.minifaces.judge.model import load_judge
from recipes.minifaces.world.renderer import render_seed
from sg3.files import write_text
from sg3.media import contact_sheet, save_png

#: Identities of no data set: those have numbers below 10**9, in tens of millions per seed.
HELD_OUT = 1_234_500_000
STAGES = ("start", "w", "w+", "tuned")
SHOWN = 8


def held_out(count: int) -> torch.Tensor:
    """Renders `[count, 3, 64, 64]` in [−1, 1] that no network was trained on."""
    pictures = np.stack([render_seed(HELD_OUT + i) for i in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def invert(
    G: nn.Module, targets: torch.Tensor, distance: Distance, steps: int, tune_steps: int
) -> tuple[dict[str, torch.Tensor], list[nn.Module], dict[str, float]]:
    """Pictures by stage, the tuned networks, and processor seconds per picture.

    Projection into w takes `steps`, w+ goes on from there with half as many, and each network is
    tuned around the latent in w.
    """
    pictures, networks, seconds, clock = {}, [], {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.process_time()
        seconds[name], clock = round((now - clock) / len(targets), 2), now

    for step in project(G, targets, distance, steps=steps):
        if step.index == 0:
            pictures["start"] = step.image
    pictures["w"], pivots = step.image, step.ws
    lap("w")
    more = {"space": "w+", "start_ws": pivots, "exploration": 0.0}
    pictures["w+"] = _last(project(G, targets, distance, steps=steps // 2, **more)).image
    lap("w+")
    tuned = []
    for ws, target in zip(pivots.split(1), targets.split(1), strict=True):
        tuning = tune(G, ws, target, distance, steps=tune_steps)
        tuned.append(_last(tuning).image)
        networks.append(tuning.G)
    pictures["tuned"] = torch.cat(tuned)
    lap("tuned")
    return pictures, networks, seconds


def _last(steps: Iterator):
    return deque(steps, maxlen=1)[0]


@torch.no_grad()
def _distances(distance: Distance, pictures: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (distance.features(pictures) - distance.features(targets)).square().sum(dim=1)


@torch.no_grad()
def measure(
    pictures: torch.Tensor, targets: torch.Tensor, distance: Distance, encoder: Encoder, judge
) -> dict[str, float]:
    """Of pictures against their targets: the distance that was optimised; and what was not, the
    peak signal-to-noise ratio in dB, 1 − cosine of an encoder, and the share of attributes that a
    judge reads alike."""
    shown = pictures.clamp(-1, 1)
    away = _distances(distance, pictures, targets)
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
    """How much tuning has changed pictures of random latents: mean squared difference over the
    mean squared difference of two random pictures."""
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
    """Figures by stage, how PTI compares to w, what tuning changes elsewhere, seconds each."""
    G, targets, measured = sg3.load("mini-faces").G_ema, held_out(count), load_distance(distance)
    pictures, networks, seconds = invert(G, targets, measured, steps, tune_steps)
    encoder, judge = load_encoder("mini-a"), load_judge()
    rows = {s: measure(pictures[s], targets, measured, encoder, judge) for s in STAGES}
    each = [_distances(measured, pictures[stage], targets) for stage in ("w", "tuned")]
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        shown = torch.cat([targets[:SHOWN], *(pictures[s][:SHOWN] for s in STAGES)])
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
    """A photo of 400 × 300 pixels in which a held-out render lies somewhere, turned a little, on a
    background of soft colours; and where."""
    random = np.random.RandomState(index)
    colours = Image.fromarray(random.randint(0, 256, [6, 8, 3], dtype=np.uint8))
    background = colours.resize((400, 300), Image.Resampling.BICUBIC)
    size = random.uniform(80, 220)
    x, y = (random.uniform(size / 2 + 20, n - size / 2 - 20) for n in background.size)
    crop = PhotoCrop(x, y, size, random.uniform(-15, 15))
    return put_back(background, crop, render_seed(HELD_OUT + 1000 + index)), crop


def evaluate_photos(count: int) -> dict:
    """How near the crops that are found lie to the true ones: share within a tenth of a side and
    ten degrees, medians of what they are off by, and processor seconds each."""
    G, off = sg3.load("mini-faces").G_ema, []
    start = time.process_time()
    for index in range(count):
        photo, true = photo_with_a_face(index)
        found = choose_crop(G, photo)
        place = math.hypot(found.x - true.x, found.y - true.y) / true.size
        off.append((place, abs(found.size / true.size - 1), abs(found.degrees - true.degrees)))
    near = np.array([place < 0.1 and size < 0.1 and angle < 10 for place, size, angle in off])
    place, size, angle = np.median(np.array(off), axis=0).round(3).tolist()
    seconds = round((time.process_time() - start) / count, 1)
    medians = {"place": place, "size": size, "degrees": angle}
    return {"found": round(float(near.mean()), 3), "off_by": medians, "cpu_seconds_each": seconds}


def table(result: dict, write: Callable[[str], None] = print) -> None:
    """The figures as a table."""
    columns = list(result["stages"]["w"])
    write("stage".ljust(8) + "".join(name.rjust(18) for name in columns))
    for stage, row in result["stages"].items():
        write(stage.ljust(8) + "".join(f"{row[name]:18.4f}" for name in columns))
    write(json.dumps({k: v for k, v in result.items() if k != "stages"}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tune", type=int, default=120)
    parser.add_argument("--distance", default="scales", choices=("lpips", "scales"))
    parser.add_argument("--sheet", type=Path, help="PNG of the first pictures")
    parser.add_argument("--out", type=Path, help="JSON of the figures")
    parser.add_argument("--photos", type=int, metavar="N", help="find faces in N photos instead")
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
