"""Evaluate steering on fifty fixed prompts; the judge reads the images.

python -m recipes.minifaces.evaluation.steering --sheet docs/minifaces-steering.png
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import guidance
import sg3
from recipes.arguments import add_models, argument_parser
from recipes.minifaces.evaluation.steering_prompts import ONE, SEVERAL
from recipes.minifaces.judge.model import Judge, load_judge
from recipes.minifaces.world.captions import Mentions


@dataclass(frozen=True)
class Steered:
    """Images [1, 3, H, W] of a prompt.

    Attributes:
        prompt: text of the prompt.
        claims: what it states.
        random: image of a random latent.
        start: image of the best of N random latents.
        result: image after steering.
        sigma: distance of the resulting latent from the mean of W.
    """

    prompt: str
    claims: Mentions
    random: Tensor
    start: Tensor
    result: Tensor
    sigma: float


def steer_prompts(
    network: str, clip: str, prompts: list[tuple[str, Mentions]], batch: int = 10, **settings: Any
) -> list[Steered]:
    """Steer each prompt from a seed of its own; `settings` are those of `guidance.steer_batch`."""
    G = sg3.load(network).G_ema
    out = []
    for first in range(0, len(prompts), batch):
        group = prompts[first : first + batch]
        seeds = list(range(1000 + first, 1000 + first + len(group)))
        steps = guidance.steer_batch(G, [text for text, _ in group], clip, seeds=seeds, **settings)
        opening = closing = next(steps)
        starts = [step.image for step in opening]
        for last in steps:
            closing = last
        for i, (text, claims) in enumerate(group):
            z = torch.from_numpy(
                np.random.RandomState(seeds[i]).randn(1, G.z_dim).astype(np.float32)
            )
            with torch.no_grad():
                plain = G(z, None, truncation_psi=0.7)
            out.append(
                Steered(text, claims, plain, starts[i], closing[i].image, float(closing[i].sigma))
            )
    return out


def score(judge: Judge, steered: list[Steered]) -> list[dict]:
    """Return for each prompt which claims the judge confirms in its three images."""
    rows = [{"prompt": s.prompt, "claims": s.claims, "sigma": round(s.sigma, 3)} for s in steered]
    for stage in ("random", "start", "result"):
        readings = judge.read(torch.cat([getattr(s, stage) for s in steered]).float().clamp(-1, 1))
        for row, reading in zip(rows, readings, strict=True):
            row[stage] = {name: reading[name] == value for name, value in row["claims"].items()}
            row[f"{stage}_read"] = {name: reading[name] for name in row["claims"]}
    return rows


def summarize(rows: list[dict]) -> dict:
    """Return the fractions of prompts with all claims right, and of claims right, by stage."""
    out: dict = {"prompts": len(rows)}
    for stage in ("random", "start", "result"):
        out[f"{stage}_all_right"] = round(float(np.mean([all(r[stage].values()) for r in rows])), 4)
        out[f"{stage}_attributes_right"] = round(
            float(np.mean([v for r in rows for v in r[stage].values()])), 4
        )
    sigma = [r["sigma"] for r in rows]
    out["sigma_mean"], out["sigma_max"] = (
        round(float(np.mean(sigma)), 3),
        round(float(max(sigma)), 3),
    )
    return out


def draw_sheet(steered: list[Steered], rows: list[dict], path: Path, columns: int = 10) -> None:
    """Draw each result and its prompt, in a green frame if all claims are right, else a red one."""
    side, text_height = 128, 44
    cell = side + 8, side + text_height
    lines = -(-len(steered) // columns)
    sheet = Image.new("RGB", (cell[0] * columns, cell[1] * lines), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for i, (s, row) in enumerate(zip(steered, rows, strict=True)):
        x, y = cell[0] * (i % columns), cell[1] * (i // columns)
        pixels = (s.result[0].permute(1, 2, 0).float() * 127.5 + 128).clamp(0, 255).byte().numpy()
        frame = (60, 170, 80) if all(row["result"].values()) else (215, 50, 50)
        pen.rectangle((x + 1, y + 1, x + side + 6, y + side + 6), fill=frame)
        sheet.paste(
            Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (x + 4, y + 4)
        )
        pen.text(
            (x + 4, y + side + 8),
            "\n".join(textwrap.wrap(s.prompt, 23)[:3]),
            fill=(0, 0, 0),
            font_size=10,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def evaluate_steering(
    network: str = "mini-faces", clip: str = "mini", sheet: Path | None = None, **settings: Any
) -> dict:
    """Return results for one and for several attributes, for each prompt, and the settings."""
    prompts = [*ONE, *SEVERAL]
    steered = steer_prompts(network, clip, prompts, **settings)
    rows = score(load_judge(), steered)
    if sheet is not None:
        draw_sheet(steered, rows, sheet)
    return {
        "network": network,
        "clip": clip,
        "settings": settings,
        "one_attribute": summarize(rows[: len(ONE)]),
        "several_attributes": summarize(rows[len(ONE) :]),
        "rows": rows,
    }


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    add_models(parser)
    parser.add_argument("--steps", type=int, default=60, help="steps per prompt")
    parser.add_argument("--sheet", type=Path, help="PNG file for the images of all prompts")
    args = parser.parse_args()
    found = evaluate_steering(args.network, args.clip, args.sheet, steps=args.steps)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
