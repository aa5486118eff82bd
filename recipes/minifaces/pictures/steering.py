"""The picture at the top of the README: for five sentences, what steering makes of one seed.

python -m recipes.minifaces.pictures.steering --out docs/steering.png
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import guidance
import sg3
from sg3.media import to_uint8

PROMPTS = (
    "a smiling woman with red hair",
    "a man with a beard and sunglasses",
    "a face with a green hat on a yellow background",
    "a sad person with curly blond hair",
    "a pale man with a moustache and glasses",
)
SIDE_PX, GAP_PX, TEXT_PX = 192, 12, 44


def steering_picture(network: str, seed: int, steps: int) -> Image.Image:
    """The seed's own picture at the left; per prompt the picture after `steps`, its text below."""
    G = sg3.load(network).G_ema
    own = next(guidance.steer(G, PROMPTS[0], "mini", seed=seed, start="seed"))
    seeds = [seed] * len(PROMPTS)
    *_, last = guidance.steer_batch(G, list(PROMPTS), "mini", seeds=seeds, steps=steps)
    images = torch.cat([own.image, *(step.image for step in last)])
    return labelled_row(images, [f"seed {seed}, no text", *PROMPTS])


def labelled_row(images: torch.Tensor, labels: Sequence[str], side_px: int = SIDE_PX):
    """Pictures `[N, 3, H, W]` side by side, a text below each."""
    width = (side_px + GAP_PX) * len(labels) + GAP_PX
    sheet = Image.new("RGB", (width, side_px + 2 * GAP_PX + TEXT_PX), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(to_uint8(images), labels, strict=True)):
        x = GAP_PX + i * (side_px + GAP_PX)
        face = Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.LANCZOS)
        sheet.paste(face, (x, GAP_PX))
        text = "\n".join(textwrap.wrap(label, side_px // 7))
        pen.text((x, side_px + GAP_PX + 6), text, fill=(40, 40, 40), font_size=13)
    return sheet


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="mini-faces")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("docs/steering.png"))
    args = parser.parse_args()
    steering_picture(args.network, args.seed, args.steps).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
