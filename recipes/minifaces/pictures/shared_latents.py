"""Make the figure of docs/ADAPTATION.md: latents steered on mini-faces, on adapted networks.

    python -m recipes.minifaces.pictures.shared_latents --out docs/shared-latents.png

For one latent, on the command line:

    sg3 steer "a smiling woman with red hair" --outdir out/red
    sg3 generate --latent out/red/latent.safetensors --delta zombie --outdir out/red-zombie
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

import guidance
import sg3
from recipes.arguments import argument_parser
from recipes.minifaces.pictures.steering import PROMPTS, labelled_row
from sg3.checkpoints.delta import apply_deltas, load_delta
from sg3.cli.parsers import parse_delta

ADAPTATIONS = ("zombie", "cat", "sepia", "neon", "pixel-art", "zombie:0.6 + neon:0.5")
SIDE_PX = 128


def shared_latents(seed: int) -> Image.Image:
    """Draw a row per prompt: its image, then the same latent on each adapted network."""
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
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seed", type=int, default=3, help="random seed")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/shared-latents.png"), help="PNG file to write"
    )
    args = parser.parse_args()
    shared_latents(args.seed).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
