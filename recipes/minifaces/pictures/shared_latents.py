"""The picture in docs/ADAPTATION.md: latents that a text found on mini-faces, on adapted networks.

    python -m recipes.minifaces.pictures.shared_latents --out docs/shared-latents.png

The same for one latent on the command line:

    sg3 steer "a smiling woman with red hair" --outdir out/red
    sg3 generate --latent out/red/latent.safetensors --delta zombie --outdir out/red-zombie
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import guidance
import sg3
from recipes.minifaces.pictures.steering import PROMPTS, labelled_row
from sg3.checkpoints.delta import apply_deltas, load_delta
from sg3.cli.options import parse_delta

ADAPTATIONS = ("zombie", "cat", "sepia", "neon", "pixel-art", "zombie:0.6 + neon:0.5")
SIDE_PX = 128


def shared_latents(seed: int) -> Image.Image:
    """A row per text: its picture, then the same latent on every adapted network."""
    G = sg3.load("mini-faces").G_ema
    prompts = list(PROMPTS[:4])
    *_, last = guidance.steer_batch(G, prompts, "mini", seeds=[seed] * len(prompts))
    ws = torch.cat([step.ws for step in last])
    columns = [guidance.render.renderer(G)(ws)]
    for names in ADAPTATIONS:
        chosen = [parse_delta(name) for name in names.split(" + ")]
        adapted = apply_deltas(G, [(load_delta(path), strength) for path, strength in chosen])
        columns.append(guidance.render.renderer(adapted)(ws))
    rows = [
        labelled_row(torch.stack(images), [prompt, *ADAPTATIONS], SIDE_PX)
        for prompt, *images in zip(prompts, *columns, strict=True)
    ]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * row.height))
    return sheet


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/shared-latents.png"))
    args = parser.parse_args()
    shared_latents(args.seed).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
