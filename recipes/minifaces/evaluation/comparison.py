"""Measurements of `recipes.compare_sg2_sg3`: equivariance and texture sticking."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri
from torch import nn

from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.evaluation.generator import (
    HELDOUT_BASE,
    render_features,
    sample_images,
)
from recipes.minifaces.generator.latents import POSE_DIM, code_of_seeds, start_of, z_of
from recipes.minifaces.generator.movable import MovableStyleGAN2
from recipes.minifaces.judge.model import collect_features, load_judge
from recipes.minifaces.world.attributes import pose_of, sample_attributes
from recipes.minifaces.world.renderer import render
from sg3.analysis.stickiness import Stickiness
from sg3.metrics import frechet_distance
from sg3.metrics.equivariance import draws, psnr, squared_errors, translate_integer

#: Draws face `seed` in poses u `[N, 4]` in (−1, 1): `[N, 3, 64, 64]`.
Source = Callable[[int, np.ndarray], torch.Tensor]
IMAGES, FACES, POSES = 500, 40, 32


def rendered(seed: int, poses: np.ndarray) -> torch.Tensor:
    """Draw true renders; a `Source`."""
    face = sample_attributes(seed)
    return to_float(np.stack([render(face, pose=pose_of(u)) for u in poses]))


def generated(G: nn.Module) -> Source:
    """Return a `Source` that draws the same faces with `G`."""

    @torch.no_grad()
    def draw(seed: int, poses: np.ndarray) -> torch.Tensor:
        z = z_of(code_of_seeds(np.array([seed])), np.random.RandomState(seed % 2**32))
        z = z.repeat(len(poses), axis=0)
        z[:, start_of("pose") :][:, :POSE_DIM] = ndtri((poses + 1) / 2)
        ws = G.mapping(torch.from_numpy(z.astype(np.float32)), None)
        return torch.cat([G.synthesis(part, noise_mode="const") for part in ws.split(16)])

    return draw


def input_equivariance(G: nn.Module, kind: str, num: int = IMAGES) -> float:
    """Return the equivariance in dB; `kind` is eqt_int, eqt_frac or eqr."""
    return psnr(*sum(squared_errors(G, draw, kind) for draw in draws(G, None, num, seed=0)))


@torch.no_grad()
def inner_equivariance(G: nn.Module, num: int = IMAGES, border_px: int = 16) -> float:
    """Return eqt_int without a border, which excludes the effect of small margins."""
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
    """Return the EQ-T in dB of translations by the latent: 1 to 4 pixels to the right or down."""
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
    """Return the fraction of high-pass energy that does not move with the pose, and that energy."""
    fixed = energy = 0.0
    for i in range(faces):
        measure = Stickiness()
        u = np.random.RandomState(i).uniform(-1, 1, [poses, POSE_DIM])
        measure.add(source(HELDOUT_BASE + i, u))
        fixed, energy = fixed + measure.fixed_energy, energy + measure.energy
    return fixed / energy, energy / faces


def blurred(sigma_px: float) -> Source:
    """Return a `Source` of renders out of focus."""

    def draw(seed: int, poses: np.ndarray) -> torch.Tensor:
        sharp = rendered(seed, poses).numpy()
        return torch.from_numpy(gaussian_filter(sharp, [0, 0, sigma_px, sigma_px]))

    return draw


def measure(networks: dict[str, nn.Module], images: int = 2000) -> Iterator[tuple[str, dict]]:
    """Yield (name, numbers) for the renderer and then for each network."""
    judge = load_judge()
    real = render_features(judge, images)
    # Stickiness and energy of renders less and less out of focus: wide edges overlap themselves.
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
        if G.kind == "stylegan2":  # restore the constant
            G.synthesis.b4.const.copy_(movable.input.const)
        else:
            numbers["eqr"] = input_equivariance(G, "eqr")
        source = generated(G)
        numbers["pose"] = pose_equivariance(source)
        numbers["stickiness"], numbers["detail"] = stickiness(source)
        numbers["stickiness_of_renders"] = np.interp(numbers["detail"], foci[:, 1], foci[:, 0])
        fake = collect_features(judge, sample_images(G, images))
        numbers["frechet"] = frechet_distance(fake, real)
        numbers["parameters"] = sum(p.numel() for p in G.synthesis.parameters())
        yield name, _rounded(numbers)


def _rounded(numbers: dict) -> dict:
    kept = {name: round(float(value), 4) for name, value in numbers.items()}
    return kept | {name: int(kept[name]) for name in ("parameters",) if name in kept}
