"""Geometric augmentation without aliasing (ADA App. B; REFERENCE.md §5.3)."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import affine_grid, grid_sample, pad

from ops_cuda import downsample2d, upsample2d
from sg3.networks.augment_draws import Draws

FILTER_PAD = 3  # a quarter of the 12 taps


def _matrices(rows: list[list[torch.Tensor | float]], like: torch.Tensor) -> torch.Tensor:
    """Stack square matrices, `[N, 3, 3]`, from entries that are numbers or tensors `[N]`."""
    entries = [
        entry if isinstance(entry, torch.Tensor) else torch.full_like(like, entry)
        for row in rows
        for entry in row
    ]
    return torch.stack(entries, dim=-1).reshape(-1, len(rows), len(rows))


def translate2d(tx: torch.Tensor, ty: torch.Tensor) -> torch.Tensor:
    """Return translations `[N, 3, 3]` by `tx` `[N]`, `ty` `[N]`."""
    return _matrices([[1.0, 0.0, tx], [0.0, 1.0, ty], [0.0, 0.0, 1.0]], tx)


def scale2d(sx: torch.Tensor, sy: torch.Tensor) -> torch.Tensor:
    """Return scalings `[N, 3, 3]` by `sx` `[N]`, `sy` `[N]`."""
    return _matrices([[sx, 0.0, 0.0], [0.0, sy, 0.0], [0.0, 0.0, 1.0]], sx)


def rotate2d(theta: torch.Tensor) -> torch.Tensor:
    """Return rotations `[N, 3, 3]` by angles `[N]` in radians."""
    cos, sin = theta.cos(), theta.sin()
    return _matrices([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], theta)


def draw_geometry(pipe, draws: Draws, height: int, width: int) -> torch.Tensor | None:
    """Draw transforms in the order of the paper and return their inverses.

    The inverses `[N, 3, 3]` map output to input positions, in pixels from the centre. None if no
    operation is enabled.
    """
    p, steps = pipe.p, []
    one = torch.ones([draws.num], device=draws.device, dtype=draws.dtype)
    if pipe.xflip > 0:
        i = draws.gated((draws.uniform() * 2).floor(), 0, pipe.xflip * p)
        steps.append(scale2d(1 - 2 * i, one))
    if pipe.yflip > 0:
        i = draws.gated((draws.uniform() * 2).floor(), 0, pipe.yflip * p)
        steps.append(scale2d(one, 1 - 2 * i))
    if pipe.rotate90 > 0:
        i = draws.gated((draws.uniform() * 4).floor(), 0, pipe.rotate90 * p)
        steps.append(rotate2d(math.pi / 2 * i))
    if pipe.xint > 0:
        t = draws.gated((draws.uniform(2) * 2 - 1) * pipe.xint_max, 0, pipe.xint * p)
        steps.append(translate2d(-(t[:, 0] * width).round(), -(t[:, 1] * height).round()))
    if pipe.scale > 0:
        s = draws.gated((draws.normal() * pipe.scale_std).exp2(), 1, pipe.scale * p)
        steps.append(scale2d(1 / s, 1 / s))
    # Rotation happens before and after anisotropic scaling; each with a probability
    # such that the total probability of a rotation is rotate·p.
    p_rotate = 1 - (1 - pipe.rotate * p).clamp(0, 1).sqrt()
    if pipe.rotate > 0:
        steps.append(rotate2d(_angle(pipe, draws, p_rotate)))
    if pipe.aniso > 0:
        s = draws.gated((draws.normal() * pipe.aniso_std).exp2(), 1, pipe.aniso * p)
        steps.append(scale2d(1 / s, s))
    if pipe.rotate > 0:
        theta = _angle(pipe, draws, p_rotate)
        steps.append(rotate2d(theta if draws.percentile is None else torch.zeros_like(theta)))
    if pipe.xfrac > 0:
        t = draws.gated(draws.normal(2) * pipe.xfrac_std, 0, pipe.xfrac * p)
        steps.append(translate2d(-t[:, 0] * width, -t[:, 1] * height))
    if not steps:
        return None
    # The inverse of a product is the product of the inverses in reverse order.
    inverse = steps[0]
    for step in steps[1:]:
        inverse = inverse @ step
    return inverse


def _angle(pipe, draws: Draws, probability: torch.Tensor) -> torch.Tensor:
    return draws.gated((draws.uniform() * 2 - 1) * math.pi * pipe.rotate_max, 0, probability)


def _margins(inverse: torch.Tensor, height: int, width: int) -> list[int]:
    """Return how many pixels (left, top, right, bottom) the transforms reach beyond the image."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    # The farthest of the corners (±cx, ±cy) along an axis is the sum of absolute values.
    extent = inverse[:, :2, 0].abs() * cx + inverse[:, :2, 1].abs() * cy  # [N, 2]
    centre = inverse[:, :2, 2]
    reach = torch.cat([(extent - centre).amax(0), (extent + centre).amax(0)])
    # PyTorch reflects at most all pixels but the edge.
    limits = [width - 1, height - 1] * 2
    beyond = [2 * FILTER_PAD - cx, 2 * FILTER_PAD - cy] * 2
    # The only synchronization with a GPU: tensor sizes must be known here.
    return [
        math.ceil(min(max(r + b, 0), limit))
        for r, b, limit in zip(reach.tolist(), beyond, limits, strict=True)
    ]


def apply_geometry(images: torch.Tensor, inverse: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Transform `images` `[N, C, H, W]`, given the `inverse` transforms `[N, 3, 3]`.

    Images continue beyond their borders by reflection. Sampling is bilinear on a grid of twice the
    resolution, with the low-pass filter `taps` for up- and downsampling.
    """
    height, width = images.shape[2:]
    left, top, right, bottom = _margins(inverse, height, width)
    images = pad(images, [left, right, top, bottom], mode="reflect")
    images = upsample2d(images, taps, up=2)

    def numbers(*values: float) -> list[torch.Tensor]:
        return [inverse.new_full([1], value) for value in values]

    # Express the map relative to the centre of the padded image, then on the grid of twice the
    # resolution, then between normalized coordinates in [-1, 1].
    inverse = translate2d(*numbers((left - right) / 2, (top - bottom) / 2)) @ inverse
    inverse = scale2d(*numbers(2, 2)) @ inverse @ scale2d(*numbers(0.5, 0.5))
    inverse = translate2d(*numbers(-0.5, -0.5)) @ inverse @ translate2d(*numbers(0.5, 0.5))
    out_height, out_width = (height + 2 * FILTER_PAD) * 2, (width + 2 * FILTER_PAD) * 2
    inverse = scale2d(*numbers(2 / images.shape[3], 2 / images.shape[2])) @ inverse
    inverse = inverse @ scale2d(*numbers(out_width / 2, out_height / 2))
    shape = [images.shape[0], images.shape[1], out_height, out_width]
    grid = affine_grid(inverse[:, :2], shape, align_corners=False)
    images = GridSample.apply(images, grid)
    # Negative padding crops the border that only the filters needed.
    return downsample2d(images, taps, down=2, padding=-2 * FILTER_PAD, flip_filter=True)


class GridSample(torch.autograd.Function):
    """Bilinear sampling with zero padding, differentiable to any order in the images.

    `torch.nn.functional.grid_sample` has no second derivative. Sampling is linear in the images,
    so the adjoint of its adjoint is sampling again. The grid gets no gradient.
    """

    @staticmethod
    def forward(ctx, images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return grid_sample(images, grid, "bilinear", "zeros", align_corners=False)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return GridSampleAdjoint.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class GridSampleAdjoint(torch.autograd.Function):
    """The gradient of `GridSample` with respect to the images."""

    @staticmethod
    def forward(ctx, gradient: torch.Tensor, grid: torch.Tensor, shape) -> torch.Tensor:
        ctx.save_for_backward(grid)
        stand_in = gradient.new_zeros([]).expand(shape)  # only its shape is used
        return torch.ops.aten.grid_sampler_2d_backward(
            gradient, stand_in, grid, 0, 0, False, [True, False]
        )[0]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return GridSample.apply(gradient, ctx.saved_tensors[0]), None, None
