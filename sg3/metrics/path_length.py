"""Perceptual path length: how much pictures change along a small step of the latent (REFERENCE.md §6.2).

StyleGAN (arXiv 1812.04948), section 4.1; as published for StyleGAN2 and 3: in W, at the ends of
paths (`wend`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch

from sg3.media.images import as_rgb

EPSILON = 1e-4
PASS = 2  # paths that are drawn together: they share the noise of a StyleGAN2
LARGEST_PX = 256  # larger pictures are pooled before they are compared
TRIM = 1.0  # per cent left out at either end


class Perception(Protocol):
    """Pictures as vectors whose squared Euclidean distance says how far apart they look."""

    name: str

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, 3, H, W]` in [−1, 1] → `[N, D]`."""
        ...


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """From `a` at t = 0 to `b` at t = 1 along the unit sphere. `[N, D]`, `[N, D]`, `[N, 1]`."""
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(dim=-1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    aside = b - cosine * a
    aside = aside / aside.norm(dim=-1, keepdim=True)
    found = a * angle.cos() + aside * angle.sin()
    return found / found.norm(dim=-1, keepdim=True)


@torch.no_grad()
def path_lengths(
    G, perception: Perception, dataset, num: int, seed: int, space: str, sampling: str,
    rank: int = 0, size: int = 1,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:  # fmt: skip
    """This process's share of `num` squared distances over EPSILON²: `(rows, float64 [B])`.

    `space` is 'w' or 'z', `sampling` 'end' (t = 0) or 'full' (t uniform). The same for any number
    of processes. `dataset` gives labels, and may be None for a network without them.
    """
    device = next(G.parameters()).device
    with _own_noise(G) as randomise:
        for part in range(rank, -(-num // PASS), size):
            rows = np.arange(part * PASS, min((part + 1) * PASS, num))
            random = np.random.RandomState([seed, part])
            z = torch.from_numpy(random.randn(2, PASS, G.z_dim).astype(np.float32))
            t = random.rand(PASS, 1).astype(np.float32) * (sampling == "full")
            c = dataset.random_labels(random, PASS) if G.c_dim else torch.zeros([PASS, 0])
            randomise(random)
            z, c = z[:, : len(rows)].to(device), c[: len(rows)].to(device)
            here = torch.from_numpy(t[: len(rows)]).to(device)
            images = _render(G, z, c, torch.stack([here, here + EPSILON]), space)
            a, b = perception.features(images).to("cpu", torch.float64).chunk(2)
            yield rows, (a - b).flatten(1).square().sum(dim=1) / EPSILON**2


def _render(G, z: torch.Tensor, c: torch.Tensor, t: torch.Tensor, space: str) -> torch.Tensor:
    """Paths `z` `[2, B, z_dim]` at `t` `[2, B, 1]` → pictures `[2·B, 3, h, w]`."""
    if space == "z":
        points = torch.cat([slerp(z[0], z[1], each) for each in t])
        ws = G.mapping(z=points, c=c.repeat(2, 1))
    else:
        start, end = G.mapping(z=z.flatten(0, 1), c=c.repeat(2, 1)).chunk(2)
        ws = torch.cat([start.lerp(end, each[..., None].to(start)) for each in t])
    images = G.synthesis(ws, noise_mode="const", force_fp32=True)
    factor = max(images.shape[2:]) // LARGEST_PX
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return as_rgb(images)


@contextmanager
def _own_noise(G):
    """A function that draws the fixed noise of a StyleGAN2 anew; its own is put back at the end."""
    buffers = [b for name, b in G.named_buffers() if name.endswith("noise_const")]
    before = [buffer.clone() for buffer in buffers]

    def randomise(random: np.random.RandomState) -> None:
        for buffer in buffers:
            buffer.copy_(torch.from_numpy(random.randn(*buffer.shape).astype(np.float32)))

    try:
        yield randomise
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def trimmed_mean(values: np.ndarray) -> float:
    """Mean of `values` `[N]` from their 1st to their 99th percentile, both included."""
    low = np.percentile(values, TRIM, method="lower")
    high = np.percentile(values, 100 - TRIM, method="higher")
    return float(values[(values >= low) & (values <= high)].mean())
