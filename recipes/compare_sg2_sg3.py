"""StyleGAN3-T beside StyleGAN2 on the same world: equivariance and texture sticking, on a CPU.

Commands:
  python -m recipes.minifaces.dataset --dest data/minifaces.zip --num 50000 --seed 0
  python -m recipes.compare_sg2_sg3 train --data data/minifaces.zip --outdir runs/compare
  python -m recipes.minifaces.bundle --network runs/compare/stylegan2.safetensors \\
    --out sg3/assets/mini-faces-stylegan2.safetensors
  python -m recipes.compare_sg2_sg3 measure --outdir docs

`train` takes a StyleGAN2 through the steps that made `mini-faces` (recipes/minifaces/
pretrain_stylegan2.py). `measure` writes compare-sg2-sg3.json and compare-sg2-sg3.png:

- EQ-T of the input: as `sg3 metrics` has it. The constant of StyleGAN2 is read as samples of a
  band-limited signal, which can be moved like the waves of StyleGAN3; zeros come in. Once more
  for the inner half of the picture, where it does not matter how wide the layers' margins are.
- EQ-T of the pose: both networks, and the renderer, take a pose (up to 2 pixels) from the latent.
  The picture that a latent draws 1 to 4 pixels further is compared with the moved picture.
- Stickiness (`sg3.analysis.stickiness`) over random poses of one face, summed over faces. Also true
  renders have some, and more when they are out of focus: edges wider than the move overlap. So each
  network stands beside renders whose high-pass has as much energy (`stickiness_of_renders`).

Hardware: one CPU core, 4 GB. Duration: 50 minutes of CPU time to train, 5 to measure (twice as long
by the clock on a loaded machine). Result: docs/ANALYSIS.md: the input 55 dB against 11, sticking of
textures in neither, since this world has none to speak of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri
from torch import nn

import sg3
from recipes.minifaces.attributes import Pose, sample_attributes
from recipes.minifaces.batches import to_float
from recipes.minifaces.evaluate_generator import HELDOUT_BASE, sample_images
from recipes.minifaces.judge import collect_features, load_judge
from recipes.minifaces.latents import POSE_DIM, code_of_seeds, start_of, z_of
from recipes.minifaces.movable import MovableStyleGAN2
from recipes.minifaces.pretrain_stylegan2 import train
from recipes.minifaces.world import render, render_seed
from sg3.allocator import keep_large_blocks
from sg3.analysis.drawing import Drawing
from sg3.analysis.stickiness import Stickiness
from sg3.cli.main import errors_in_one_line
from sg3.cli.options import debug_option, outdir_option
from sg3.data import ImageDataset
from sg3.files import prepare_folder, write_text
from sg3.media import to_uint8
from sg3.metrics import frechet_distance
from sg3.metrics.equivariance import draws, psnr, squared_errors, translate_integer

# What is measured. A source draws face `seed` in poses u `[N, 4]` in (−1, 1): `[N, 3, 64, 64]`.

Source = Callable[[int, np.ndarray], torch.Tensor]
PICTURES, FACES, POSES = 500, 40, 32


def rendered(seed: int, poses: np.ndarray) -> torch.Tensor:
    """The truth."""
    face = sample_attributes(seed)
    moved = [Pose(2 * u[0], 2 * u[1], 4 * u[2], 1 + 0.04 * u[3]) for u in poses.tolist()]
    return to_float(np.stack([render(face, pose=pose) for pose in moved]))


def generated(G: nn.Module) -> Source:
    """The same faces from latents of `G`."""

    @torch.no_grad()
    def draw(seed: int, poses: np.ndarray) -> torch.Tensor:
        z = z_of(code_of_seeds(np.array([seed])), np.random.RandomState(seed % 2**32))
        z = z.repeat(len(poses), axis=0)
        z[:, start_of("pose") :][:, :POSE_DIM] = ndtri((poses + 1) / 2)
        ws = G.mapping(torch.from_numpy(z.astype(np.float32)), None)
        return torch.cat([G.synthesis(part, noise_mode="const") for part in ws.split(16)])

    return draw


def input_equivariance(G: nn.Module, kind: str, num: int = PICTURES) -> float:
    """Decibels; `kind` is eqt_int or eqt_frac."""
    return psnr(*sum(squared_errors(G, draw, kind) for draw in draws(G, None, num, seed=0)))


@torch.no_grad()
def inner_equivariance(G: nn.Module, num: int = PICTURES, border_px: int = 16) -> float:
    """As eqt_int, without a border: what margins that are too small do is left out."""
    error = count = 0.0
    transform = G.synthesis.input.transform
    for draw in draws(G, None, num, seed=0):
        ws, shift = G.mapping(draw.z, None), [round(t * 64) for t in draw.shift]
        still = G.synthesis(ws, noise_mode="const")
        transform[:2, 2] = -torch.tensor(shift) / 64
        moved = G.synthesis(ws, noise_mode="const")
        transform.copy_(torch.eye(3))
        target, mask = translate_integer(still, *shift)
        inner = (slice(None), slice(None), *[slice(border_px, -border_px)] * 2)
        error += float(((moved - target).double().square() * mask)[inner].sum())
        count += float(mask[inner].sum())
    return psnr(error, count)


def pose_equivariance(source: Source, faces: int = 4 * FACES) -> float:
    """Decibels of faces that their latent moves by 1 to 4 whole pixels to the right or down."""
    error = count = 0.0
    for i in range(faces):
        shift, axis = 1 + i // 2 % 4, i % 2
        poses = np.zeros([2, POSE_DIM])
        poses[:, axis] = np.array([-1, 1]) * min(shift / 4, 1 - 1e-6)
        before, after = source(HELDOUT_BASE + i, poses).split(1)
        target, mask = translate_integer(before, *((shift, 0) if axis == 0 else (0, shift)))
        error += float(((after - target).double().square() * mask).sum())
        count += float(mask.sum())
    return psnr(error, count)


def stickiness(source: Source, faces: int = FACES, poses: int = POSES) -> tuple[float, float]:
    """Share of the high-pass energy of faces that stays in place while their poses change, and
    that energy."""
    fixed = energy = 0.0
    for i in range(faces):
        measure = Stickiness()
        u = np.random.RandomState(i).uniform(-1, 1, [poses, POSE_DIM])
        measure.add(source(HELDOUT_BASE + i, u))
        fixed, energy = fixed + measure.fixed_energy, energy + measure.energy
    return fixed / energy, energy / faces


def blurred(sigma_px: float) -> Source:
    """The renderer out of focus."""

    def draw(seed: int, poses: np.ndarray) -> torch.Tensor:
        sharp = rendered(seed, poses).numpy()
        return torch.from_numpy(gaussian_filter(sharp, [0, 0, sigma_px, sigma_px]))

    return draw


def measure(networks: dict[str, nn.Module], pictures: int = 2000) -> Iterator[tuple[str, dict]]:
    """(name, numbers) of the renderer and then of every network."""
    judge = load_judge()
    seeds = range(HELDOUT_BASE, HELDOUT_BASE + pictures)
    real = collect_features(judge, to_float(np.stack([render_seed(seed) for seed in seeds])))
    # Stickiness and energy of renders more and more out of focus: wide edges overlap themselves.
    foci = np.array([stickiness(blurred(sigma)) for sigma in np.linspace(1.2, 0, 13)])
    truth = {"pose": pose_equivariance(rendered), "stickiness": foci[-1, 0], "detail": foci[-1, 1]}
    yield "true renders", _rounded(truth)
    for name, G in networks.items():
        movable = MovableStyleGAN2(G) if G.kind == "stylegan2" else G
        numbers = {
            "eqt_int": input_equivariance(movable, "eqt_int"),
            "eqt_frac": input_equivariance(movable, "eqt_frac"),
            "eqt_int_inner": inner_equivariance(movable),
        }
        if G.kind == "stylegan2":  # leave the constant where it was
            G.synthesis.b4.const.copy_(movable.input.const)
        source = generated(G)
        numbers["pose"] = pose_equivariance(source)
        numbers["stickiness"], numbers["detail"] = stickiness(source)
        numbers["stickiness_of_renders"] = np.interp(numbers["detail"], foci[:, 1], foci[:, 0])
        fake = collect_features(judge, sample_images(G, pictures))
        numbers["frechet"] = frechet_distance(fake, real)
        numbers["parameters"] = sum(p.numel() for p in G.synthesis.parameters())
        yield name, _rounded(numbers)


def _rounded(numbers: dict) -> dict:
    kept = {name: round(float(value), 4) for name, value in numbers.items()}
    return kept | {name: int(kept[name]) for name in ("parameters",) if name in kept}


# The picture.

SIDE, GAP = 128, 10  # of its cells
FACE, SHIFT_PX = HELDOUT_BASE + 2, 5


def picture(networks: dict[str, nn.Module], numbers: dict[str, dict]) -> Drawing:
    """A row for the renderer and each network: a face, its mean over poses, a column of pixels
    while it moves up and down, what is left when the input moves, the numbers."""
    cells = [SIDE, SIDE, 2 * SIDE, SIDE]
    heads = [
        ["one face"],
        ["mean of 64 poses"],
        ["its middle column over time,", "moving up and down by its latent"],
        [f"input {SHIFT_PX} px right and down,", "less the moved picture (x4)"],
    ]
    left = 110
    lefts = [left + sum(cells[:i]) + i * GAP for i in range(5)]
    drawing = Drawing(lefts[-1] + 215, 50 + (SIDE + GAP) * len(numbers))
    for x, width, lines in zip(lefts, cells, heads, strict=False):
        for i, line in enumerate(lines):
            drawing.text(x + width / 2, 30 - 15 * (len(lines) - 1 - i), line, "middle")
    for row, (name, found) in enumerate(numbers.items()):
        top, G = 44 + row * (SIDE + GAP), networks.get(name)
        drawing.text(4, top + SIDE / 2, name)
        for x, width, image in zip(lefts, cells, _row(G), strict=False):
            drawing.image(x, top, width, SIDE, image)
        for i, line in enumerate(_told(found)):
            drawing.text(lefts[-1], top + 10 + 20 * i, line)
    return drawing


def _row(G: nn.Module | None) -> list[np.ndarray]:
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
    return images if G is None else [*images, _left_over(G)]


@torch.no_grad()
def _left_over(G: nn.Module) -> np.ndarray:
    """What a network draws with its input moved, less what it draws at rest, moved."""
    movable = MovableStyleGAN2(G) if G.kind == "stylegan2" else G
    z = z_of(code_of_seeds(np.array([FACE])), np.random.RandomState(FACE % 2**32))
    ws, transform = G.mapping(torch.from_numpy(z), None), movable.synthesis.input.transform
    still = movable.synthesis(ws, noise_mode="const")
    transform[:2, 2] = -SHIFT_PX / 64
    moved = movable.synthesis(ws, noise_mode="const")
    transform.copy_(torch.eye(3))
    movable.synthesis(ws, noise_mode="const")  # the constant back to where it was
    target, mask = translate_integer(still, SHIFT_PX, SHIFT_PX)
    return to_uint8((moved - target) * mask * 4)[0]


def _told(found: dict) -> list[str]:
    lines = []
    if "eqt_int" in found:
        lines.append(f"EQ-T of the input {found['eqt_int']:.1f} dB")
        lines.append(f"   inner half {found['eqt_int_inner']:.1f} dB")
    lines.append(f"EQ-T of the pose {found['pose']:.1f} dB")
    lines.append(f"stickiness {found['stickiness']:.3f}")
    if "stickiness_of_renders" in found:
        lines.append(f"   of renders as sharp {found['stickiness_of_renders']:.3f}")
    if "frechet" in found:
        lines.append(f"distance to renders {found['frechet']:.0f}")
    return lines


# The command.


@click.group()
def main() -> None:
    """StyleGAN3-T beside StyleGAN2 on the same world."""
    keep_large_blocks()
    torch.set_num_threads(1)


@main.command("train")
@click.option("--data", required=True, metavar="ZIP", help="Of recipes.minifaces.dataset, seed 0.")
@outdir_option
@debug_option
def train_command(data: str, outdir: str) -> None:
    """Train the StyleGAN2 as mini-faces was trained."""
    with errors_in_one_line(click.get_current_context()):
        ImageDataset(data, cache="none")  # a wrong path leaves no folder
        click.echo(str(train(data, prepare_folder(outdir))))


@main.command("measure")
@click.option(
    "--stylegan2",
    default="mini-faces-stylegan2",
    show_default=True,
    metavar="NAME|FILE",
    help="What `train` wrote.",
)
@click.option("--stylegan3", default="mini-faces", show_default=True, metavar="NAME|FILE")
@outdir_option
@debug_option
def measure_command(stylegan2: str, stylegan3: str, outdir: str) -> None:
    """Write compare-sg2-sg3.json and .png."""
    with errors_in_one_line(click.get_current_context()):
        loaded = {"StyleGAN3-T": sg3.load(stylegan3), "StyleGAN2": sg3.load(stylegan2)}
        networks = {name: nets.G_ema for name, nets in loaded.items()}
        start, cpu, numbers = time.time(), time.process_time(), {}
        for name, found in measure(networks):
            numbers[name] = found
            click.echo(f"{name}: {json.dumps(found)}")
        out = prepare_folder(outdir)
        picture(networks, numbers).save(out / "compare-sg2-sg3.png")
        record = {
            "command": "python -m recipes.compare_sg2_sg3 measure",
            "units": "eqt_… and pose in dB; frechet in features of the judge",
            "numbers": numbers,
            "networks": {name: nets.meta for name, nets in loaded.items()},
            "seconds": round(time.time() - start),
            "cpu_seconds": round(time.process_time() - cpu),
        }
        write_text(out / "compare-sg2-sg3.json", json.dumps(record, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
