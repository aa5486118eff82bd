"""Edit directions read by the judge: does it see more of what was asked for as alpha grows?

python -m recipes.minifaces.evaluation.directions --sheet out/directions.png
python -m recipes.minifaces.evaluation.directions --plain 2       # time against the plain method
python -m recipes.minifaces.evaluation.directions --bundle 48     # statistics that ship: 6 minutes
"""

from __future__ import annotations

import argparse
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
from guidance.latents import map_latents, seed_latents
from recipes.minifaces.judge.model import Judge, load_judge
from recipes.minifaces.world.captions import CLASSES
from sg3.media import contact_sheet, save_png

#: Latents of the published statistics.
PUBLISHED_LATENTS = 100
#: A response that has reached 0 or 1 still trembles by this much.
TREMBLE = 0.01
#: What is asked for, and the attribute and value that the judge should see more of.
ASKED = (
    ("a face with red hair", "hair_colour", "red"),
    ("a face with blond hair", "hair_colour", "blond"),
    ("a face wearing glasses", "glasses", "glasses"),
    ("a smiling face", "mouth", "smile"),
)


@dataclass(frozen=True)
class Response:
    """The judge's mean probability of the value at each alpha, and how much each step of alpha
    changes all the other attributes it reads, as a share of pictures against alpha 0."""

    text: str
    alphas: tuple[float, ...]
    probability: tuple[float, ...]
    others_changed: tuple[float, ...]
    info: dict

    @property
    def monotone(self) -> bool:
        """Whether no step up lowers the probability by more than it trembles."""
        return self.largest_fall <= TREMBLE

    @property
    def largest_fall(self) -> float:
        """The most by which a step up lowers the probability."""
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
    """The judge's response to `direction` on `ws` `[N, num_ws, w_dim]` at `count` alphas from
    −largest to largest, and the pictures `[N, 3, H, W]` at each."""
    number = CLASSES[attribute].index(value)
    steps = list(sweep(G, ws, [(direction, -largest, largest)], count))
    pictures = [step.image.clamp(-1, 1) for step in steps]
    probability = [float(judge(p)[attribute].softmax(dim=1)[:, number].mean()) for p in pictures]
    readings = [judge.classify(p) for p in pictures]
    middle = readings[count // 2]
    related = {attribute, "domain", "style"}
    others = [name for name in CLASSES if name not in related]
    changed = [
        float(torch.stack([r[name] != middle[name] for name in others]).float().mean())
        for r in readings
    ]
    alphas = tuple(step.alphas[0] for step in steps)
    rounded = (tuple(round(v, 3) for v in values) for values in (probability, changed))
    return Response(direction.name, alphas, *rounded, info=dict(direction.info)), pictures


def evaluate_directions(
    clip: str = "mini",
    seeds: int = 48,
    betas: Sequence[float] = (0.12, 0.2),
    images: int = 32,
    largest: float = 4.0,
    labels: bool = False,
    sheet: Path | None = None,
) -> dict:
    """Responses for everything asked for, in style space at each beta and in W by `labels`."""
    G, encoder, judge = sg3.load("mini-faces").G_ema, load_encoder(clip), load_judge()
    start = time.perf_counter()
    relevance = find_relevance(G, encoder, RelevanceConfig(images=images))
    seconds = time.perf_counter() - start
    ws = map_latents(G, seed_latents(4000, seeds, G.z_dim))
    rows, cells, captions = [], [], []
    for text, attribute, value in ASKED:
        made = [(f"style space, beta {b}", _text(relevance, encoder, text, b)) for b in betas]
        if labels:
            made.append(("labels in W", described_direction(G, encoder, text)))
        for kind, direction in made:
            response, pictures = respond(G, judge, direction, attribute, value, ws, largest)
            falls = {"monotone": response.monotone, "largest_fall": response.largest_fall}
            rows.append({"kind": kind, **falls, **vars(response)})
            middle = judge.classify(pictures[len(pictures) // 2])[attribute]
            lacking = (middle != CLASSES[attribute].index(value)).nonzero()[0]
            for face in lacking.tolist():
                cells += [picture[face] for picture in pictures]
                captions += [f"{value} {alpha:+g}" for alpha in response.alphas]
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        save_png(sheet, contact_sheet(torch.stack(cells), captions, columns=9))
    found = {"latents": relevance.images, "statistics_s": round(seconds, 1)}
    return {"clip": clip, "seeds": seeds, **found, "rows": rows}


def _text(relevance: Relevance, encoder: Encoder, text: str, beta: float) -> Direction:
    return text_direction(relevance, encoder, text, "a face", beta)


def time_statistics(clip: str = "mini", latents: int = 2) -> dict:
    """Seconds per latent of the statistics, of the clock and of the processor: ours and the
    definition, on the same latents, which also have to agree; and minutes for a first text, with
    our number of latents and the published one."""
    G, encoder = sg3.load("mini-faces").G_ema, load_encoder(clip)
    relevance = find_relevance(G, encoder, RelevanceConfig(images=1))
    ws = map_latents(G, seed_latents(11, latents, G.z_dim))
    encoder.encode_images(G.synthesis(ws))  # whatever is compiled is compiled now
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
    """Compute the statistics of mini-faces and `mini` that ship with the package."""
    G, encoder = sg3.load("mini-faces").G_ema, load_encoder("mini")
    config = RelevanceConfig(images=latents)
    for state in tqdm(relevance_steps(G, encoder, config), total=latents, unit="img"):
        finished = state
    write_relevance(BUNDLED, finished, whose_relevance(G, encoder, config), small=True)
    return BUNDLED


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clip", default="mini")
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--beta", type=float, nargs="+", default=[0.12, 0.2])
    parser.add_argument("--largest", type=float, default=4.0, help="alpha")
    parser.add_argument("--labels", action="store_true", help="also directions in W from labels")
    parser.add_argument("--sheet", type=Path, help="PNG with a face without it for each direction")
    parser.add_argument("--plain", type=int, metavar="N", help="time ours and the plain method")
    parser.add_argument("--bundle", type=int, metavar="N", help="write those that ship")
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
