"""The differentiable operator `upfirdn2d`: linear in `x`, so its gradient is another call of it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ops_cuda import choose
from ops_cuda.fir import as_padding, as_pair, filter_size, memory_format_of
from ops_cuda.upfirdn2d import numba_cpu, reference, triton_path
from ops_cuda.upfirdn2d.reference import Resampling

PATHS: dict[str, ModuleType] = {
    "reference": reference,
    "cpu": numba_cpu,
    "triton": triton_path,
}


def check(path: ModuleType, device: torch.device) -> float:
    """Return the largest relative error of `path` over both layouts, 1-D and 2-D filters."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn([2, 3, 9, 11], generator=random).to(device)
    f = torch.rand([4], generator=random).to(device)
    layouts = (x, x.to(memory_format=torch.channels_last))
    calls = [
        (layout, taps, spec)
        for layout in layouts
        for taps in (f, f.outer(f))
        for spec in (
            Resampling((1, 1), (2, 2), (1, 1, 1, 1), False, 1.0),
            Resampling((2, 2), (1, 1), (2, 1, 2, -1), True, 4.0),
        )
    ]
    own = [path.run(*call) for call in calls]
    return choose.relative_error(own, [reference.run(*call) for call in calls])


OPERATOR = choose.Operator("upfirdn2d", PATHS, check)


@choose.constant_when_compiled
def _path_name(device_type: str, dtype: torch.dtype) -> str:
    return OPERATOR.path(device_type, dtype)


@torch.library.custom_op("ops_cuda::upfirdn2d", mutates_args=())
def _upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
    path: str,
) -> Tensor:
    spec = Resampling.of(up, down, padding, flip_filter, gain)
    return PATHS[path].run(x, f, spec).contiguous(memory_format=memory_format_of(x))


@_upfirdn2d.register_fake
def _(x, f, up, down, padding, flip_filter, gain, path):
    spec = Resampling.of(up, down, padding, flip_filter, gain)
    width, height = spec.output_size(x.shape[3], x.shape[2], f)
    y = x.new_empty([x.shape[0], x.shape[1], height, width])
    return y.contiguous(memory_format=memory_format_of(x))


def _remember(ctx, inputs, output) -> None:
    x, f, up, down, padding, flip_filter, gain, ctx.path = inputs
    spec = Resampling.of(up, down, padding, flip_filter, gain)
    ctx.transposed = spec.transposed(x.shape, f)
    ctx.save_for_backward(f)


def _backward(ctx, dy):
    (f,) = ctx.saved_tensors
    return _call(dy, f, ctx.transposed, ctx.path), *[None] * 7


_upfirdn2d.register_autograd(_backward, setup_context=_remember)


def _call(x: Tensor, f: Tensor | None, spec: Resampling, path: str) -> Tensor:
    return _upfirdn2d(x, f, spec.up, spec.down, spec.padding, spec.flip_filter, spec.gain, path)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Upsample by zero insertion, pad, filter and decimate each channel of `x` (REFERENCE.md §1.3).

    Differentiable in `x` to any order, not in `f`.

    Args:
        x: `[N, C, H, W]`, any floating dtype.
        f: float32 filter: separable `[taps]`, 2-D `[taps_y, taps_x]`, or None (identity).
        up: upsampling factor, one number or (x, y).
        down: downsampling factor, one number or (x, y).
        padding: relative to the upsampled image; a number, (x, y) or (left, right, top, bottom);
            negative values crop.
        flip_filter: False convolves, True correlates.
        gain: overall factor.

    Returns:
        `[N, C, H', W']` with `W' = (W·up + left + right − taps_x) // down + 1`.

    Raises:
        ValueError: the padded image is smaller than the filter, or an argument is invalid.
    """
    if x.ndim != 4:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected [N, C, H, W]")
    spec = Resampling(
        as_pair(up, "up"), as_pair(down, "down"), as_padding(padding), flip_filter, float(gain)
    )
    spec.output_size(x.shape[3], x.shape[2], f)
    if choose.exporting():
        return reference.run(x, f, spec)
    return _call(x, f, spec, _path_name(x.device.type, x.dtype))


def filter2d(x, f, padding=0, flip_filter=False, gain=1):
    """Filter `[N, C, H, W]` at the same size; extra `padding` enlarges the result."""
    fw, fh = filter_size(f)
    left, right, top, bottom = as_padding(padding)
    padding = [left + fw // 2, right + (fw - 1) // 2, top + fh // 2, bottom + (fh - 1) // 2]
    return upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1):
    """Upsample `[N, C, H, W]` to `[N, C, H·up, W·up]` (plus `padding`); keeps the brightness."""
    ux, uy = as_pair(up, "up")
    fw, fh = filter_size(f)
    left, right, top, bottom = as_padding(padding)
    padding = [
        left + (fw + ux - 1) // 2,
        right + (fw - ux) // 2,
        top + (fh + uy - 1) // 2,
        bottom + (fh - uy) // 2,
    ]
    return upfirdn2d(
        x, f, up=(ux, uy), padding=padding, flip_filter=flip_filter, gain=gain * ux * uy
    )


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1):
    """Downsample `[N, C, H, W]` to `[N, C, H/down, W/down]` (plus extra `padding`)."""
    dx, dy = as_pair(down, "down")
    fw, fh = filter_size(f)
    left, right, top, bottom = as_padding(padding)
    padding = [
        left + (fw - dx + 1) // 2,
        right + (fw - dx) // 2,
        top + (fh - dy + 1) // 2,
        bottom + (fh - dy) // 2,
    ]
    return upfirdn2d(x, f, down=(dx, dy), padding=padding, flip_filter=flip_filter, gain=gain)
