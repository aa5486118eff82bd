"""What recipes/compare_sg2_sg3.py measures: how pictures move with their input and their latent,
and what of them sticks to the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri
from torch import nn

from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.evaluation.generator import HELDOUT_BASE, sample_images
from recipes.minifaces.generator.latents import POSE_DIM, code_of_seeds, start_of, z_of
from recipes.minifaces.generator.movable import MovableStyleGAN2
from recipes.minifaces.judge.model import collect_features, load_judge
from recipes.minifaces.world.attributes import Pose, sample_attributes
from recipes.minifaces.world.renderer import render, render_seed
from sg3.analysis.stickiness import Stickiness
from sg3.metrics import frechet_distance
from sg3.metrics.equivariance import draws, psnr, squared_errors, translate_integer

#: Draws face `seed` in poses u `[N, 4]` in (−1, 1): `[N, 3, 64, 64]`.
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
    """Decibels; `kind` is eqt_int, eqt_frac or eqr."""
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
        else:
            numbers["eqr"] = input_equivariance(G, "eqr")
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
