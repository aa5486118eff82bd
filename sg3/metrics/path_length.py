"""Perceptual path length: how much images change per small step of the latent (REFERENCE.md §6.2).

StyleGAN (arXiv 1812.04948), section 4.1. StyleGAN2 and 3 publish it in W at the ends of paths
(`wend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from einops import rearrange

from sg3.data.base import TrainingImages
from sg3.media.images import as_rgb
from sg3.metrics.features import PerceptualDistance
from sg3.metrics.sampling import sample_labels

EPSILON = 1e-4
PASS = 2  # paths per pass, which share the noise of a StyleGAN2
LARGEST_PX = 256  # larger images are pooled before they are compared
TRIM = 1.0  # per cent discarded at either end


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Interpolate along the unit sphere from `a` `[N, D]` to `b` `[N, D]` at `t` `[N, 1]`."""
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(dim=-1, keepdim=True)
    # Rounding can put the cosine outside the domain of acos.
    angle = t * cosine.clamp(-1, 1).acos()
    aside = b - cosine * a
    aside = aside / aside.norm(dim=-1, keepdim=True)
    found = a * angle.cos() + aside * angle.sin()
    return found / found.norm(dim=-1, keepdim=True)


@torch.no_grad()
def path_lengths(
    G: Any, distance: PerceptualDistance, dataset: TrainingImages | None, num: int, seed: int,
    space: str, sampling: str, rank: int = 0, size: int = 1,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:  # fmt: skip
    """Yield this process's part of `num` squared distances divided by EPSILON².

    Args:
        G: the generator.
        distance: see `sg3.metrics.load_perceptual_distance`.
        dataset: source of labels; None for networks without labels.
        num: number of paths over all processes.
        seed: random seed. The values do not depend on the number of processes.
        space: 'w' or 'z'.
        sampling: 'end' (t = 0) or 'full' (t uniform).
        rank: index of this process.
        size: number of processes.

    Yields:
        Indices of the paths, and float64 `[B]`.
    """
    device = next(G.parameters()).device
    with _own_noise(G) as randomize:
        for part in range(rank, -(-num // PASS), size):
            rows = np.arange(part * PASS, min((part + 1) * PASS, num))
            random = np.random.RandomState([seed, part])
            z = torch.from_numpy(random.randn(2, PASS, G.z_dim).astype(np.float32))
            # Drawn for "end" too (t = 0), so that labels and noise are the same for both.
            t = random.rand(PASS, 1).astype(np.float32) * (sampling == "full")
            c = sample_labels(G, dataset, random, PASS)
            randomize(random)
            # Cut only after all is drawn: values must not depend on `num`.
            z, c = z[:, : len(rows)].to(device), c[: len(rows)].to(device)
            start = torch.from_numpy(t[: len(rows)]).to(device)
            images = _render(G, z, c, torch.stack([start, start + EPSILON]), space)
            a, b = distance.features(images).to("cpu", torch.float64).chunk(2)
            yield rows, (a - b).flatten(1).square().sum(dim=1) / EPSILON**2


def _render(G: Any, z: torch.Tensor, c: torch.Tensor, t: torch.Tensor, space: str) -> torch.Tensor:
    """Render paths `z` `[2, B, z_dim]` at `t` `[2, B, 1]` as images `[2·B, 3, H, W]`."""
    if space == "z":
        points = torch.cat([slerp(z[0], z[1], each) for each in t])
        ws = G.mapping(z=points, c=c.repeat(2, 1))
    else:
        start, end = G.mapping(z=rearrange(z, "end b z -> (end b) z"), c=c.repeat(2, 1)).chunk(2)
        ws = torch.cat([start.lerp(end, each[..., None].to(start)) for each in t])
    # Float32, because a step of EPSILON is below the resolution of half precision.
    images = G.synthesis(ws, noise_mode="const", force_fp32=True)
    factor = max(images.shape[2:]) // LARGEST_PX
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return as_rgb(images)


@contextmanager
def _own_noise(G: Any) -> Iterator[Callable[[np.random.RandomState], None]]:
    """Yield a function that replaces the fixed noise of a StyleGAN2, restored at the end."""
    buffers = [b for name, b in G.named_buffers() if name.endswith("noise_const")]
    before = [buffer.clone() for buffer in buffers]

    def randomize(random: np.random.RandomState) -> None:
        for buffer in buffers:
            buffer.copy_(torch.from_numpy(random.randn(*buffer.shape).astype(np.float32)))

    try:
        yield randomize
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def trimmed_mean(values: np.ndarray) -> float:
    """Return the mean of `values` `[N]` from the 1st to the 99th percentile, both included."""
    low = np.percentile(values, TRIM, method="lower")
    high = np.percentile(values, 100 - TRIM, method="higher")
    return float(values[(values >= low) & (values <= high)].mean())
