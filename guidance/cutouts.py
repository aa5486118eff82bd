"""Random views of images, so that no single crop or pixel pattern can satisfy the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat

from guidance.augment import AUGMENTS, Augment

__all__ = ["AUGMENTS", "Augment", "colour_matrices", "pooling_matrices", "random_views"]


def random_views(
    images: torch.Tensor,
    count: int,
    size_px: int,
    generators: Sequence[torch.Generator],
    augment: Augment = AUGMENTS["light"],
) -> torch.Tensor:
    """Random views `[B, count, 3, h, w]` of each image.

    Images larger than `size_px` are cut out at random places and sizes and pooled to `size_px`
    (REFERENCE.md §8.1). Smaller images are shown whole, at their own size, under a small random
    affine transform: a cutout of one would have to be enlarged.

    Args:
        images: `[B, 3, H, W]`.
        count: number of views per image.
        size_px: input size of the encoder.
        generators: one per image, on the CPU, so that the views of an image do not depend on the
            rest of the batch or on the device.
        augment: ranges of the random changes.
    """
    height, width = images.shape[2:]
    if min(height, width) > size_px:
        views = _cut(images, count, size_px, generators)
        if augment.perspective or augment.flip:  # cutouts are already translated and scaled
            frames = torch.eye(3).expand(len(images) * count, 3, 3)
            views = _warp(views, _tilted(frames, generators, count, augment))
    else:
        views = _jiggle(images, count, generators, augment)
    return _recolour(views, generators, augment)


def pooling_matrices(
    start: torch.Tensor, length: torch.Tensor, side_px: int, out_px: int
) -> torch.Tensor:
    """Matrices `[M, out_px, side_px]` of adaptive average pooling of an interval.

    Row i averages the samples ⌊i·length/out⌋ … ⌈(i+1)·length/out⌉−1 of the interval. With them,
    cutouts of different sizes are two batched matrix products instead of a loop.

    Args:
        start: first sample of each interval, int64 `[M]`.
        length: number of samples, int64 `[M]`.
        side_px: number of samples of the image.
        out_px: number of samples after pooling.
    """
    row = torch.arange(out_px, device=start.device)
    low = row * length[:, None] // out_px  # [M, out]
    high = -(-(row + 1) * length[:, None] // out_px)
    position = torch.arange(side_px, device=start.device) - start[:, None]  # [M, side]
    inside = (position[:, None] >= low[..., None]) & (position[:, None] < high[..., None])
    return inside.float() / (high - low)[..., None]


def _uniform(generators: Sequence[torch.Generator], *shape: int) -> torch.Tensor:
    """Uniform in [0, 1), `[B, *shape]`, row b from generator b alone."""
    return torch.stack([torch.rand(shape, generator=g) for g in generators])


def _cut(
    images: torch.Tensor, count: int, size_px: int, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    height, width = images.shape[2:]
    largest = min(height, width)
    # In single precision, u·n with u just below 1 could round up to n, one past the end.
    u = _uniform(generators, 3, count).double()
    # Uniform in area rather than in side, so that large cutouts dominate.
    side = (u[:, 0].sqrt() * (largest - size_px) + size_px).long()  # [B, count]
    top = (u[:, 1] * (height - side + 1)).long()
    left = (u[:, 2] * (width - side + 1)).long()
    side, top, left = (t.flatten().to(images.device) for t in (side, top, left))
    rows = pooling_matrices(top, side, height, size_px)
    columns = pooling_matrices(left, side, width, size_px)
    rows = rearrange(rows, "(b v) out h -> b v 1 out h", v=count)
    columns = rearrange(columns, "(b v) out w -> b v 1 w out", v=count)
    return rows @ images[:, None] @ columns


def _jiggle(
    images: torch.Tensor, count: int, generators: Sequence[torch.Generator], augment: Augment
) -> torch.Tensor:
    height, width = images.shape[2:]
    repeated = images[:, None].expand(-1, count, -1, -1, -1)
    if not augment.is_geometric:
        return repeated
    u = rearrange(_uniform(generators, 4, count) * 2 - 1, "b k v -> k (b v)")
    angle = u[0] * math.radians(augment.rotate_deg)
    # In the logarithm, so that enlarging and shrinking by a factor are equally likely.
    scale = torch.exp(u[1] * math.log1p(augment.scale))
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # Sampling grids span −1 to 1 along each side whatever its length, so a rotation of an image
    # that is not square needs the aspect ratio.
    aspect = width / height
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = [
        *(cos, -sin / aspect, 2 * augment.shift * u[2]),
        *(sin * aspect, cos, 2 * augment.shift * u[3]),
        *(zero, zero, one),
    ]
    frames = torch.stack(rows, dim=1).reshape(-1, 3, 3)
    return _warp(repeated, _tilted(frames, generators, count, augment))


def _tilted(
    frames: torch.Tensor, generators: Sequence[torch.Generator], count: int, augment: Augment
) -> torch.Tensor:
    """Homographies `[B·count, 3, 3]` with random flips and tilts added."""
    if augment.flip:
        flipped = (_uniform(generators, count) < augment.flip).flatten()
        sign = torch.where(flipped, -1.0, 1.0)
        signs = torch.stack([sign, torch.ones_like(sign), torch.ones_like(sign)], 1)
        frames = frames * signs[:, None]
    if augment.perspective:
        # Half along each axis, so that no corner comes nearer than a border may.
        u = (_uniform(generators, 2, count) * 2 - 1) * augment.perspective / 2
        tilt = repeat(torch.eye(3), "i j -> n i j", n=len(frames)).clone()
        tilt[:, 2, :2] = rearrange(u, "b k v -> (b v) k")
        frames = frames @ tilt
    return frames


def _warp(views: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Resample `views` `[B, V, C, H, W]` by homographies `[B·V, 3, 3]`.

    They map output to input positions, in coordinates from −1 to 1 along each side.
    """
    height, width = views.shape[-2:]
    y = (torch.arange(height) + 0.5) * (2 / height) - 1
    x = (torch.arange(width) + 0.5) * (2 / width) - 1
    places = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)], dim=2)
    found = einsum(frames, places, "n i j, h w j -> n h w i").to(views)
    grid = found[..., :2] / found[..., 2:]
    flat = rearrange(views, "b v c h w -> (b v) c h w")
    flat = F.grid_sample(flat, grid, padding_mode="reflection", align_corners=False)
    return flat.reshape(views.shape)


def _recolour(
    views: torch.Tensor, generators: Sequence[torch.Generator], augment: Augment
) -> torch.Tensor:
    count = views.shape[1]
    if augment.brightness or augment.contrast:
        u = (_uniform(generators, 2, count) * 2 - 1).to(views)[..., None, None, None]
        views = views * (1 + augment.contrast * u[:, 0]) + augment.brightness * u[:, 1]
    if augment.hue or augment.saturation:
        u = _uniform(generators, 2, count) * 2 - 1
        matrices = colour_matrices(
            u[:, 0] * math.radians(augment.hue), 1 + u[:, 1] * augment.saturation
        )
        views = einsum(matrices.to(views), views, "b v i j, b v j h w -> b v i h w")
    if augment.noise:
        noise = torch.stack([torch.randn(views.shape[1:], generator=g) for g in generators])
        views = views + augment.noise * noise.to(views)
    return views


def colour_matrices(angle: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """Matrices `[..., 3, 3]` that rotate RGB by `angle` around the grey axis and scale saturation.

    `angle` in radians and `saturation`, `[...]` each.
    """
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    grey = torch.full([3, 3], 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turned = cos * (torch.eye(3) - grey) + sin * across
    return grey + saturation[..., None, None] * turned
