"""Random views of an image, so that no single crop or pixel pattern can please the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augment:
    """Ranges of light random changes; every value is a half width around "unchanged".

    Shifts in image widths, scale relative, rotation in degrees, brightness and contrast in units
    of the image range [−1, 1], noise as a standard deviation in the same units. Perspective: by how
    much nearer a border is than the centre, as a share. Flip: the probability of a mirror image.
    Hue in degrees, saturation relative. Raises ValueError for values out of range.
    """

    shift: float = 0.0
    scale: float = 0.0
    rotate_deg: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    perspective: float = 0.0
    flip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        for name, value in asdict(self).items():
            most = {"perspective": 0.5, "flip": 1.0, "rotate_deg": 180.0, "hue": 180.0}.get(name, 1)
            if not 0 <= value <= most:
                raise ValueError(f"{name}: got {value}, expected 0 to {most:g}")

    @property
    def warps(self) -> bool:
        """Whether views of a small picture are anything but the picture."""
        return any((self.shift, self.scale, self.rotate_deg, self.perspective, self.flip))


AUGMENTS = {
    "none": Augment(),
    "light": Augment(0.04, 0.05, 5.0, 0.05, 0.1, 0.02),
    "strong": Augment(0.08, 0.12, 12.0, 0.15, 0.25, 0.06),
}


def random_views(
    images: torch.Tensor,
    count: int,
    size_px: int,
    generators: Sequence[torch.Generator],
    augment: Augment = AUGMENTS["light"],
) -> torch.Tensor:
    """`count` random views of each image, for an encoder that reads `size_px` pixels.

    `images` `[B, 3, H, W]` → `[B, count, 3, h, w]`. Images larger than `size_px` are cut out at
    random places and sizes and pooled to `size_px` (REFERENCE.md §8.1); smaller ones are shown whole at
    their own size under a small random affine map. `generators`: one per image, on the CPU, so
    that an image's views do not depend on what else is in the batch.
    """
    height, width = images.shape[2:]
    if min(height, width) > size_px:
        views = _cut(images, count, size_px, generators)
        if augment.perspective or augment.flip:  # cutouts are moved and scaled as it is
            frames = torch.eye(3).expand(len(images) * count, 3, 3)
            views = _warp(views, _tilted(frames, generators, count, augment))
    else:
        views = _jiggle(images, count, generators, augment)
    return _recolour(views, generators, augment)


def pooling_matrices(
    start: torch.Tensor, length: torch.Tensor, side_px: int, out_px: int
) -> torch.Tensor:
    """Matrices `[M, out_px, side_px]` that pool the interval `start`, `length` `[M]` (int64).

    Row i averages the samples ⌊i·length/out⌋ … ⌈(i+1)·length/out⌉−1 of the interval, which is
    adaptive average pooling. As matrices, cutouts of any size are two batched products.
    """
    row = torch.arange(out_px, device=start.device)
    low = row * length[:, None] // out_px  # [M, out]
    high = -(-(row + 1) * length[:, None] // out_px)
    position = torch.arange(side_px, device=start.device) - start[:, None]  # [M, side]
    inside = (position[:, None] >= low[..., None]) & (position[:, None] < high[..., None])
    return inside.float() / (high - low)[..., None]


def _uniform(generators: Sequence[torch.Generator], *shape: int) -> torch.Tensor:
    """Numbers in [0, 1), `[B, *shape]`, row b from generator b alone."""
    return torch.stack([torch.rand(shape, generator=g) for g in generators])


def _cut(images, count, size_px, generators) -> torch.Tensor:
    batch, _, height, width = images.shape
    largest = min(height, width)
    u = _uniform(generators, 3, count).double()
    side = (u[:, 0].sqrt() * (largest - size_px) + size_px).long()  # [B, count]
    top = (u[:, 1] * (height - side + 1)).long()
    left = (u[:, 2] * (width - side + 1)).long()
    flat = [t.reshape(-1).to(images.device) for t in (side, top, left)]
    rows = pooling_matrices(flat[1], flat[0], height, size_px)
    columns = pooling_matrices(flat[2], flat[0], width, size_px)
    rows = rows.reshape(batch, count, 1, size_px, height)
    columns = columns.reshape(batch, count, 1, size_px, width)
    return rows @ images[:, None] @ columns.transpose(-1, -2)


def _jiggle(images, count, generators, augment: Augment) -> torch.Tensor:
    batch, _, height, width = images.shape
    repeated = images[:, None].expand(batch, count, -1, -1, -1)
    if not augment.warps:
        return repeated
    u = (_uniform(generators, 4, count) * 2 - 1).transpose(0, 1).reshape(4, batch * count)
    angle = u[0] * math.radians(augment.rotate_deg)
    scale = torch.exp(u[1] * math.log1p(augment.scale))
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # Grid coordinates span 2 per side, whatever its length: a rotation has to know.
    aspect = width / height
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = [
        *(cos, -sin / aspect, 2 * augment.shift * u[2]),
        *(sin * aspect, cos, 2 * augment.shift * u[3]),
        *(zero, zero, one),
    ]
    frames = torch.stack(rows, dim=1).reshape(-1, 3, 3)
    return _warp(repeated, _tilted(frames, generators, count, augment))


def _tilted(frames: torch.Tensor, generators, count: int, augment: Augment) -> torch.Tensor:
    """Homographies `[B·count, 3, 3]` after random mirroring and tilting."""
    if augment.flip:
        mirrored = (_uniform(generators, count) < augment.flip).flatten()
        sign = torch.where(mirrored, -1.0, 1.0)
        frames = (
            frames * torch.stack([sign, torch.ones_like(sign), torch.ones_like(sign)], 1)[:, None]
        )
    if augment.perspective:
        # Half each, so that the nearest corner is as near as the nearest border may be.
        u = (_uniform(generators, 2, count) * 2 - 1) * augment.perspective / 2
        tilt = torch.eye(3).repeat(len(frames), 1, 1)
        tilt[:, 2, :2] = u.transpose(1, 2).flatten(0, 1)
        frames = frames @ tilt
    return frames


def _warp(views: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """`views` `[B, V, C, H, W]` through homographies `[B·V, 3, 3]` from output to input places, in
    coordinates from −1 to 1 per side."""
    height, width = views.shape[-2:]
    y = (torch.arange(height) + 0.5) * (2 / height) - 1
    x = (torch.arange(width) + 0.5) * (2 / width) - 1
    places = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)], dim=2)
    found = torch.einsum("nij,hwj->nhwi", frames, places).to(views)
    grid = found[..., :2] / found[..., 2:]
    flat = F.grid_sample(views.flatten(0, 1), grid, padding_mode="reflection", align_corners=False)
    return flat.reshape(views.shape)


def _recolour(views, generators, augment: Augment) -> torch.Tensor:
    count = views.shape[1]
    if augment.brightness or augment.contrast:
        u = (_uniform(generators, 2, count) * 2 - 1).to(views)[..., None, None, None]
        views = views * (1 + augment.contrast * u[:, 0]) + augment.brightness * u[:, 1]
    if augment.hue or augment.saturation:
        u = _uniform(generators, 2, count) * 2 - 1
        matrices = colour_matrices(
            u[:, 0] * math.radians(augment.hue), 1 + u[:, 1] * augment.saturation
        )
        views = torch.einsum("bvij,bvjhw->bvihw", matrices.to(views), views)
    if augment.noise:
        noise = torch.stack([torch.randn(views.shape[1:], generator=g) for g in generators])
        views = views + augment.noise * noise.to(views)
    return views


def colour_matrices(angle: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """`[..., 3, 3]` that turn RGB by `angle` around the grey axis, and scale what is not grey."""
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    grey = torch.full([3, 3], 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turned = cos * (torch.eye(3) - grey) + sin * across
    return grey + saturation[..., None, None] * turned
