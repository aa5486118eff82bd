"""Compare StyleGAN3-T, StyleGAN3-R and StyleGAN2: equivariance and texture sticking, on a CPU.

Commands:
  python -m recipes.minifaces.world.dataset --dest data/minifaces.zip --num 50000 --seed 0
  python -m recipes.compare_sg2_sg3 train --data data/minifaces.zip --outdir runs/compare
  python -m recipes.minifaces.generator.bundle --network runs/compare/stylegan2.safetensors \\
    --out sg3/assets/mini-faces-stylegan2.safetensors
  python -m recipes.compare_sg2_sg3 measure --outdir docs

`train` trains a StyleGAN2 as `mini-faces` was trained
(recipes/minifaces/generator/pretrain_stylegan2.py); for an R, use
`python -m recipes.minifaces.generator.pretrain --cfg stylegan3-r` (recipes/minifaces/README.md).
`measure` writes compare-sg2-sg3.json and compare-sg2-sg3.png:

- EQ-T of the input, as in `sg3 metrics`. The constant of StyleGAN2 counts as samples of a
  band-limited signal, which can be translated like the Fourier features of StyleGAN3; zeros enter
  at the border. Also for the inner half of the image, where the layers' margins do not matter.
- EQ-R of the input, as in `sg3 metrics`, for StyleGAN3.
- EQ-T of the pose: all networks, and the renderer, take a pose (up to 2 pixels) from the latent.
  The image of a latent whose pose is 1 to 4 pixels further is compared with the translated image.
- Stickiness (`sg3.analysis.stickiness`) over random poses of a face, summed over faces. True
  renders have some, too, and more when they are out of focus, because edges wider than the motion
  overlap. Therefore each network is compared with renders of the same high-pass energy
  (`stickiness_of_renders`).

Hardware: one CPU core, 4 GB. Duration: 50 minutes of CPU time to train, 9 to measure (twice as long
in real time on a busy machine). Result: docs/ANALYSIS.md: EQ-T of the input is 56 dB against 11 of
StyleGAN2; no network shows texture sticking, because this world has hardly any texture.
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from torch import nn

import sg3
from recipes.minifaces.evaluation.comparison import generated, measure, rendered
from recipes.minifaces.evaluation.generator import HELDOUT_BASE
from recipes.minifaces.generator.latents import POSE_DIM, code_of_seeds, z_of
from recipes.minifaces.generator.movable import MovableStyleGAN2
from recipes.minifaces.generator.pretrain_stylegan2 import train
from recipes.run import RecipeCommand
from sg3.allocator import keep_large_blocks
from sg3.analysis import charts
from sg3.cli.options import debug_option, option, outdir_option
from sg3.data import ImageDataset
from sg3.files import prepare_folder, write_text
from sg3.media import to_uint8
from sg3.metrics.equivariance import rotation_matrix, translate_integer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACE, SHIFT_PX, TURN_DEG = HELDOUT_BASE + 2, 5, 30
COLUMNS = (
    "one face",
    "mean of 64 poses",
    "its middle column over time,\nmoving up and down by its latent",
    f"input {SHIFT_PX} px right\nand down, minus the\nmoved image (×4)",
    f"input rotated by {TURN_DEG}°",
)
WIDTHS = (0.75, 1, 1, 2, 1, 1, 1.4)  # name, the five columns, numbers


def figure(networks: dict[str, nn.Module], numbers: dict[str, dict]) -> Figure:
    """Draw a row for the renderer and for each network.

    Columns: a face, its mean over poses, a column of pixels while it moves up and down, the error
    under a translation of the input, the face with its input rotated (StyleGAN3), the numbers.
    """
    result = charts.new_figure(1.25 * sum(WIDTHS), 1.25 * len(numbers) + 0.5)
    grid = result.subplots(len(numbers), len(WIDTHS), width_ratios=WIDTHS, squeeze=False)
    for cells, (name, found) in zip(grid, numbers.items(), strict=True):
        for axes in cells:
            axes.set_axis_off()
        for axes, image in zip(cells[1:], _row(networks.get(name)), strict=False):
            charts.show_image(axes, image)
        cells[0].text(0, 0.5, name, va="center", fontsize=charts.FONT_SIZE)
        lines = "\n".join(_lines(found))
        cells[-1].text(0, 1, lines, va="top", fontsize=charts.FONT_SIZE - 1, linespacing=1.3)
    for axes, title in zip(grid[0, 1:], COLUMNS, strict=False):
        axes.set_title(title, fontsize=charts.FONT_SIZE - 1)
    return result


def _row(G: nn.Module | None) -> list[np.ndarray]:
    """Return the images of a row, uint8 `[H, W, 3]`; None stands for the renderer."""
    source = rendered if G is None else generated(G)
    turning = np.random.RandomState(0).uniform(-1, 1, [64, POSE_DIM])
    nodding = np.zeros([128, POSE_DIM])
    nodding[:, 1] = 0.999 * np.sin(np.linspace(0, 6 * np.pi, 128, endpoint=False))
    column = to_uint8(source(FACE, nodding))[:, :, 32]
    images = [
        to_uint8(source(FACE, np.zeros([1, POSE_DIM])))[0],
        to_uint8(source(FACE, turning).mean(0))[0],
        np.ascontiguousarray(column.transpose(1, 0, 2)),
    ]
    if G is None:
        return images
    return [*images, _error(G), *([] if G.kind == "stylegan2" else [_rotated(G)])]


def _face_ws(G: nn.Module) -> torch.Tensor:
    z = z_of(code_of_seeds(np.array([FACE])), np.random.RandomState(FACE % 2**32))
    return G.mapping(torch.from_numpy(z), None)


@torch.no_grad()
def _rotated(G: nn.Module) -> np.ndarray:
    """Return the face with the input of a StyleGAN3 rotated."""
    ws, transform = _face_ws(G), G.synthesis.input.transform
    transform[:2, :2] = rotation_matrix(-math.radians(TURN_DEG))
    image = to_uint8(G.synthesis(ws, noise_mode="const"))[0]
    transform.copy_(torch.eye(3))
    return image


@torch.no_grad()
def _error(G: nn.Module) -> np.ndarray:
    """Return the image with translated input, minus the translated image."""
    movable = MovableStyleGAN2(G) if G.kind == "stylegan2" else G
    ws, transform = _face_ws(G), movable.synthesis.input.transform
    still = movable.synthesis(ws, noise_mode="const")
    transform[:2, 2] = -SHIFT_PX / 64
    moved = movable.synthesis(ws, noise_mode="const")
    transform.copy_(torch.eye(3))
    movable.synthesis(ws, noise_mode="const")  # restores the constant
    target, mask = translate_integer(still, SHIFT_PX, SHIFT_PX)
    return to_uint8((moved - target) * mask * 4)[0]


def _lines(found: dict) -> list[str]:
    """Return the numbers of a network as text."""
    lines = []
    if "eqt_int" in found:
        lines.append(f"EQ-T of the input {found['eqt_int']:.1f} dB")
        lines.append(f"   inner half {found['eqt_int_inner']:.1f} dB")
    if "eqr" in found:
        lines.append(f"EQ-R of the input {found['eqr']:.1f} dB")
    lines.append(f"EQ-T of the pose {found['pose']:.1f} dB")
    lines.append(f"stickiness {found['stickiness']:.3f}")
    if "stickiness_of_renders" in found:
        lines.append(f"   of renders as sharp {found['stickiness_of_renders']:.3f}")
    if "frechet" in found:
        lines.append(f"distance to renders {found['frechet']:.0f}")
    return lines


@click.group()
def main() -> None:
    """Compare StyleGAN3-T, StyleGAN3-R and StyleGAN2."""
    keep_large_blocks()
    torch.set_num_threads(1)


@main.command("train", cls=RecipeCommand)
@option("--data", required=True, metavar="ZIP", help="From recipes.minifaces.world.dataset.")
@outdir_option
@debug_option
def train_command(data: str, outdir: str) -> None:
    """Train the StyleGAN2 as mini-faces was trained."""
    ImageDataset(data, cache="none")  # a wrong path leaves no folder
    click.echo(str(train(data, prepare_folder(outdir))))


@main.command("measure", cls=RecipeCommand)
@option(
    "--stylegan2",
    default="mini-faces-stylegan2",
    metavar="NAME|FILE",
    help="Network written by `train`.",
)
@option("--stylegan3", default="mini-faces", metavar="NAME|FILE", help="A StyleGAN3-T.")
@option("--stylegan3-r", default="mini-faces-r", metavar="NAME|FILE", help="A StyleGAN3-R.")
@outdir_option
@debug_option
def measure_command(stylegan2: str, stylegan3: str, stylegan3_r: str, outdir: str) -> None:
    """Write compare-sg2-sg3.json and .png."""
    names = {"StyleGAN3-T": stylegan3, "StyleGAN3-R": stylegan3_r, "StyleGAN2": stylegan2}
    loaded = {title: sg3.load(name) for title, name in names.items()}
    networks = {name: nets.G_ema for name, nets in loaded.items()}
    start, cpu, numbers = time.time(), time.process_time(), {}
    for name, found in measure(networks):
        numbers[name] = found
        click.echo(f"{name}: {json.dumps(found)}")
    out = prepare_folder(outdir)
    charts.save_figure(figure(networks, numbers), out / "compare-sg2-sg3.png")
    record = {
        "command": "python -m recipes.compare_sg2_sg3 measure",
        "units": "eqt_…, eqr and pose in dB; frechet in features of the judge",
        "numbers": numbers,
        "networks": {name: nets.meta for name, nets in loaded.items()},
        "seconds": round(time.time() - start),
        "cpu_seconds": round(time.process_time() - cpu),
    }
    write_text(out / "compare-sg2-sg3.json", json.dumps(record, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main(prog_name="python -m recipes.compare_sg2_sg3")
