"""Evaluate edit directions: does the judge see more of the attribute as alpha grows?

python -m recipes.minifaces.evaluation.directions --sheet out/directions.png
python -m recipes.minifaces.evaluation.directions --plain 2    # time against the direct method
python -m recipes.minifaces.evaluation.directions --bundle 48  # bundled statistics: 6 minutes
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import sg3
from guidance.directions import (
    Relevance,
    RelevanceConfig,
    described_direction,
    find_relevance,
    sweep,
    text_direction,
)
from guidance.directions.base import Direction
from guidance.directions.cache import BUNDLED, whose_relevance, write_relevance
from guidance.directions.relevance import differences, plain_differences, relevance_steps
from guidance.encoders import Encoder, load_encoder
from guidance.encoders.mini_vocabulary import CLASSES
from guidance.latents import map_latents, seed_latents
from recipes.arguments import argument_parser
from recipes.minifaces.judge.model import Judge, load_judge
from sg3.media import contact_sheet, save_png

#: Number of latents of the published method (StyleCLIP).
PUBLISHED_LATENTS = 100
#: Fluctuation of a response that has saturated at 0 or 1.
NOISE = 0.01
#: Prompts, each with the attribute and value that the judge should see more of.
PROMPTS = (
    ("a face with red hair", "hair_colour", "red"),
    ("a face with blond hair", "hair_colour", "blond"),
    ("a face wearing glasses", "glasses", "glasses"),
    ("a smiling face", "mouth", "smile"),
)


@dataclass(frozen=True)
class Response:
    """The judge's readings along a direction.

    Attributes:
        text: prompt of the direction.
        alphas: positions along the direction.
        probability: mean probability of the value at each alpha.
        others_changed: fraction of readings of the other attributes that differ from alpha 0.
        info: facts about the direction.
    """

    text: str
    alphas: tuple[float, ...]
    probability: tuple[float, ...]
    others_changed: tuple[float, ...]
    info: dict

    @property
    def monotone(self) -> bool:
        """Whether no step of alpha lowers the probability by more than its noise."""
        return self.largest_fall <= NOISE

    @property
    def largest_fall(self) -> float:
        """Largest decrease of the probability in a step of alpha."""
        pairs = zip(self.probability, self.probability[1:], strict=False)
        return round(max(0.0, *(a - b for a, b in pairs)), 3)


@torch.no_grad()
def respond(
    G: nn.Module,
    judge: Judge,
    direction: Direction,
    attribute: str,
    value: str,
    ws: torch.Tensor,
    largest: float = 4.0,
    count: int = 9,
) -> tuple[Response, list[torch.Tensor]]:
    """Let the judge read images along a direction.

    Args:
        G: generator.
        judge: classifier of the images.
        direction: direction to move along.
        attribute: attribute that should change.
        value: value that should become more probable.
        ws: latents `[N, num_ws, w_dim]` to start from.
        largest: alphas are in −largest … largest.
        count: number of alphas.

    Returns the response, and the images `[N, 3, H, W]` at each alpha.
    """
    number = CLASSES[attribute].index(value)
    steps = list(sweep(G, ws, [(direction, -largest, largest)], count))
    images = [step.image.clamp(-1, 1) for step in steps]
    probability = [float(judge(p)[attribute].softmax(dim=1)[:, number].mean()) for p in images]
    readings = [judge.classify(p) for p in images]
    middle = readings[count // 2]
    related = {attribute, "domain", "style"}
    others = [name for name in CLASSES if name not in related]
    changed = [
        float(torch.stack([r[name] != middle[name] for name in others]).float().mean())
        for r in readings
    ]
    alphas = tuple(step.alphas[0] for step in steps)
    rounded = (tuple(round(v, 3) for v in values) for values in (probability, changed))
    return Response(direction.name, alphas, *rounded, info=dict(direction.info)), images


def evaluate_directions(
    clip: str = "mini",
    seeds: int = 48,
    betas: Sequence[float] = (0.12, 0.2),
    images: int = 32,
    largest: float = 4.0,
    labels: bool = False,
    sheet: Path | None = None,
) -> dict:
    """Evaluate all `PROMPTS`.

    Args:
        clip: encoder of images and texts.
        seeds: number of faces.
        betas: thresholds of the directions in style space.
        images: number of latents of the statistics.
        largest: alphas are in −largest … largest.
        labels: also evaluate directions in W from labels.
        sheet: PNG file for the images.
    """
    G, encoder, judge = sg3.load("mini-faces").G_ema, load_encoder(clip), load_judge()
    start = time.perf_counter()
    relevance = find_relevance(G, encoder, RelevanceConfig(images=images))
    seconds = time.perf_counter() - start
    ws = map_latents(G, seed_latents(4000, seeds, G.z_dim))
    rows, cells, captions = [], [], []
    for text, attribute, value in PROMPTS:
        made = [(f"style space, beta {b}", _text(relevance, encoder, text, b)) for b in betas]
        if labels:
            made.append(("labels in W", described_direction(G, encoder, text)))
        for kind, direction in made:
            response, shown = respond(G, judge, direction, attribute, value, ws, largest)
            falls = {"monotone": response.monotone, "largest_fall": response.largest_fall}
            rows.append({"kind": kind, **falls, **vars(response)})
            middle = judge.classify(shown[len(shown) // 2])[attribute]
            lacking = (middle != CLASSES[attribute].index(value)).nonzero()[:1, 0]
            for face in lacking.tolist():
                cells += [image[face] for image in shown]
                captions += [f"{value} {alpha:+g}" for alpha in response.alphas]
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        save_png(sheet, contact_sheet(torch.stack(cells), captions, columns=9))
    found = {"latents": relevance.images, "statistics_s": round(seconds, 1)}
    return {"clip": clip, "seeds": seeds, **found, "rows": rows}


def _text(relevance: Relevance, encoder: Encoder, text: str, beta: float) -> Direction:
    return text_direction(relevance, encoder, text, "a face", beta)


def time_statistics(clip: str = "mini", latents: int = 2) -> dict:
    """Time the statistics against the direct method on the same latents.

    Returns wall-clock and CPU seconds per latent of both, and minutes for a first text: with our
    number of latents, and with the published one. The results of both must agree.
    """
    G, encoder = sg3.load("mini-faces").G_ema, load_encoder(clip)
    relevance = find_relevance(G, encoder, RelevanceConfig(images=1))
    ws = map_latents(G, seed_latents(11, latents, G.z_dim))
    encoder.encode_images(G.synthesis(ws))  # warm-up: compiles what needs compiling
    clocks = [_clocks()]
    ours = torch.stack([differences(G, encoder, w, relevance, 5.0) for w in ws.split(1)], dim=1)
    clocks.append(_clocks())
    plain = torch.stack(list(plain_differences(G, encoder, ws, relevance, 5.0)))
    clocks.append(_clocks())
    error = float((ours - plain).abs().max())
    assert error < 1e-4, f"statistics differ by {error}"
    each = [(np.diff(np.array(clocks), axis=0) / latents)[i].round(2) for i in range(2)]
    minutes = (each[0] * RelevanceConfig().images / 60, each[1] * PUBLISHED_LATENTS / 60)
    names, kinds = ("ours", "plain"), ("wall", "cpu")
    found = {"error": error, "times_each": (each[1] / each[0]).round(2).tolist()}
    for unit, values in (("s_each", each), ("minutes", minutes)):
        for name, pair in zip(names, values, strict=True):
            found[f"{name}_{unit}"] = dict(zip(kinds, pair.round(2).tolist(), strict=True))
    return found


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def bundle(latents: int) -> Path:
    """Compute and write the bundled statistics of mini-faces and `mini`."""
    G, encoder = sg3.load("mini-faces").G_ema, load_encoder("mini")
    config = RelevanceConfig(images=latents)
    for state in tqdm(relevance_steps(G, encoder, config), total=latents, unit="img"):
        finished = state
    write_relevance(BUNDLED, finished, whose_relevance(G, encoder, config), small=True)
    return BUNDLED


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--clip", default="mini", help="encoder of images and texts")
    parser.add_argument("--seeds", type=int, default=48, help="number of faces")
    parser.add_argument(
        "--images", type=int, default=32, help="number of latents of the statistics"
    )
    parser.add_argument(
        "--beta", type=float, nargs="+", default=[0.12, 0.2], help="thresholds of style channels"
    )
    parser.add_argument("--largest", type=float, default=4.0, help="largest alpha")
    parser.add_argument(
        "--labels", action="store_true", help="also evaluate directions in W from labels"
    )
    parser.add_argument(
        "--sheet", type=Path, help="PNG file for faces that lack the attribute, by direction"
    )
    parser.add_argument(
        "--plain", type=int, metavar="N", help="time the statistics and the direct method instead"
    )
    parser.add_argument(
        "--bundle", type=int, metavar="N", help="write the bundled statistics of N latents instead"
    )
    args = parser.parse_args()
    if args.bundle:
        found = {"written": str(bundle(args.bundle))}
    elif args.plain:
        found = time_statistics(args.clip, args.plain)
    else:
        settings = (args.seeds, args.beta, args.images, args.largest, args.labels, args.sheet)
        found = evaluate_directions(args.clip, *settings)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
