"""Evaluate steering: sixty held-out prompts, negative prompts, and terms that keep the rest.

    python -m recipes.minifaces.evaluation.control --sheet docs/minifaces-control.png

The judge reads the images; no run is optimized against it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import guidance
import sg3
from guidance.encoders.mini_vocabulary import ATTRIBUTES
from guidance.latents import latent_statistics, map_latents, seed_latents
from recipes.arguments import add_models, argument_parser
from recipes.minifaces.evaluation import heldout_prompts
from recipes.minifaces.evaluation.steering import draw_sheet, score, steer_prompts, summarize
from recipes.minifaces.judge.model import Judge, load_judge
from recipes.minifaces.world.captions import Mentions

STEPS = 60
FIRST_SEED = 5000
#: Number of images per negative prompt.
NEGATIVE_IMAGES = 10
#: Settings that keep the rest, chosen on prompts of `steering_prompts`.
KEEPING = {
    "space": "s", "keep": 0.5, "perceptual": 1.2, "identity": 1.0,
    "identity_encoder": "mini-smooth",
}  # fmt: skip
#: Attributes that are hidden where another one has this value.
HIDDEN = {
    "hat_colour": ("hat", "none"),
    "hair_colour": ("hair_style", "bald"),
    "eye_colour": ("glasses", "sunglasses"),
}


def changes(before: Mentions, after: Mentions, claims: Mentions) -> dict[str, bool]:
    """Return whether each attribute changed that is visible in both images and not claimed."""
    found = {}
    for name in ATTRIBUTES:
        other, value = HIDDEN.get(name, (None, None))
        hidden = other is not None and value in (before[other], after[other])
        if name not in claims and not hidden:
            found[name] = before[name] != after[name]
    return found


def first_and_last(
    G: nn.Module,
    texts: Sequence[str],
    seeds: Sequence[int],
    clip: str,
    batch: int = 10,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """Steer each seed by its text; returns images `[N, 3, H, W]` before and after."""
    pairs = []
    for i in range(0, len(texts), batch):
        part = slice(i, i + batch)
        run = guidance.steer_batch(
            G, texts[part], clip, seeds=seeds[part], start="seed", truncation=0.7, **settings
        )
        opening = closing = next(run)
        for closing in run:  # noqa: B007
            pass
        pairs.append([torch.cat([s.image for s in steps]) for steps in (opening, closing)])
    before, after = (torch.cat(images) for images in zip(*pairs, strict=True))
    return before.float().clamp(-1, 1), after.float().clamp(-1, 1)


def kept(network: str, clip: str, judge: Judge, **settings: Any) -> dict:
    """Steer random faces to prompts with one attribute; returns how much else changes."""
    G = sg3.load(network).G_ema
    prompts = heldout_prompts.ONE
    texts, seeds = [text for text, _ in prompts], list(range(FIRST_SEED, FIRST_SEED + len(prompts)))
    before, after = (judge.read(x) for x in first_and_last(G, texts, seeds, clip, **settings))
    claims = [claim for _, claim in prompts]
    found = [changes(*row) for row in zip(before, after, claims, strict=True)]
    fractions = {
        name: round(float(np.mean([row[name] for row in found if name in row])), 3)
        for name in ATTRIBUTES
    }
    met = [all(a[k] == v for k, v in c.items()) for a, c in zip(after, claims, strict=True)]
    held = [all(b[k] == v for k, v in c.items()) for b, c in zip(before, claims, strict=True)]
    every = [changed for row in found for changed in row.values()]
    return {
        "settings": settings,
        "prompts": len(prompts),
        "met_before": round(float(np.mean(held)), 4),
        "met": round(float(np.mean(met)), 4),
        "not_mentioned_changed": round(float(np.mean(every)), 4),
        "changed_by_attribute": fractions,
    }


def negative(network: str, clip: str, judge: Judge, **settings: Any) -> dict:
    """Return the fraction of images that still show an attribute after a negative prompt."""
    G = sg3.load(network).G_ema
    found = {}
    for text, name, value in heldout_prompts.NEGATIVE:
        seeds = _showing(G, judge, name, value)
        _, after = first_and_last(G, [text] * len(seeds), seeds, clip, **settings)
        left = [reading[name] == value for reading in judge.read(after)]
        found[text] = {
            "pictures": len(seeds),
            "before": 1.0,
            "after": round(float(np.mean(left)), 3),
        }
    return {"settings": settings, "prompts": found}


@torch.no_grad()
def _showing(G: nn.Module, judge: Judge, name: str, value: str, max_seeds: int = 2000) -> list[int]:
    """Return the first seeds whose images show a value."""
    found: list[int] = []
    mean = latent_statistics(G).mean
    for first in range(FIRST_SEED, FIRST_SEED + max_seeds, 50):
        seeds = range(first, first + 50)
        z = torch.cat([seed_latents(seed, 1, G.z_dim) for seed in seeds])
        images = G.synthesis(mean.lerp(map_latents(G, z), 0.7), noise_mode="const")
        readings = judge.read(images.float().clamp(-1, 1))
        found += [seed for seed, r in zip(seeds, readings, strict=True) if r[name] == value]
        if len(found) >= NEGATIVE_IMAGES:
            break
    return found[:NEGATIVE_IMAGES]


def evaluate_control(
    network: str = "mini-faces", clip: str = "mini", sheet: Path | None = None, steps: int = STEPS
) -> dict:
    """Return results of held-out and negative prompts, and with and without keeping the rest."""
    judge = load_judge()
    prompts = [*heldout_prompts.ONE, *heldout_prompts.TWO]
    steered = steer_prompts(network, clip, prompts, steps=steps)
    rows = score(judge, steered)
    if sheet is not None:
        draw_sheet(steered, rows, sheet)
    count = len(heldout_prompts.ONE)
    missed = [row["prompt"] for row in rows if not all(row["result"].values())]
    wrong = Counter(k for row in rows for k, right in row["result"].items() if not right)
    return {
        "network": network,
        "clip": clip,
        "settings": {"steps": steps},
        "one_attribute": summarize(rows[:count]),
        "two_attributes": summarize(rows[count:]),
        "missed": missed,
        "wrong_by_attribute": dict(wrong),
        "negative": negative(network, clip, judge, steps=steps),
        "kept": kept(network, clip, judge, steps=steps, **KEEPING),
        "not_kept": kept(network, clip, judge, steps=steps, keep=0.0),
        "rows": rows,
    }


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    add_models(parser)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps per prompt")
    parser.add_argument("--sheet", type=Path, help="PNG file for the images of all prompts")
    args = parser.parse_args()
    found = evaluate_control(args.network, args.clip, args.sheet, args.steps)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
