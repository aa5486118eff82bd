"""Make the figure at the top of the README: one seed steered by five prompts.

python -m recipes.minifaces.pictures.steering --out docs/steering.png
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import guidance
import sg3
from recipes.arguments import argument_parser
from sg3.media import to_uint8

PROMPTS = (
    "a smiling woman with red hair",
    "a man with a beard and sunglasses",
    "a face with a green hat on a yellow background",
    "a sad person with curly blond hair",
    "a pale man with a moustache and glasses",
)
SIDE_PX, GAP_PX, TEXT_PX = 192, 12, 44


def steering_figure(network: str, seed: int, steps: int) -> Image.Image:
    """Draw the image of the seed, then for each prompt the image after `steps`, labelled."""
    G = sg3.load(network).G_ema
    own = next(guidance.steer(G, PROMPTS[0], "mini", seed=seed, start="seed"))
    seeds = [seed] * len(PROMPTS)
    *_, last = guidance.steer_batch(G, list(PROMPTS), "mini", seeds=seeds, steps=steps)
    images = torch.cat([own.image, *(step.image for step in last)])
    return labelled_row(images, [f"seed {seed}, no text", *PROMPTS])


def labelled_row(
    images: torch.Tensor, labels: Sequence[str], side_px: int = SIDE_PX
) -> Image.Image:
    """Draw images `[N, 3, H, W]` side by side, with a label below each."""
    width = (side_px + GAP_PX) * len(labels) + GAP_PX
    sheet = Image.new("RGB", (width, side_px + 2 * GAP_PX + TEXT_PX), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for i, (pixels, label) in enumerate(zip(to_uint8(images), labels, strict=True)):
        x = GAP_PX + i * (side_px + GAP_PX)
        face = Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.LANCZOS)
        sheet.paste(face, (x, GAP_PX))
        text = "\n".join(textwrap.wrap(label, side_px // 7))
        pen.text((x, side_px + GAP_PX + 6), text, fill=(40, 40, 40), font_size=13)
    return sheet


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--network", default="mini-faces", help="name, file or URL")
    parser.add_argument("--seed", type=int, default=3, help="random seed")
    parser.add_argument("--steps", type=int, default=60, help="number of steps")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/steering.png"), help="PNG file to write"
    )
    args = parser.parse_args()
    steering_figure(args.network, args.seed, args.steps).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
