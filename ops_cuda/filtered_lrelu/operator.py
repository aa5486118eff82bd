"""The differentiable operator: one gradient formula over whichever path computes the values."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from ops_cuda import choose
from ops_cuda.bias_act import SQRT2, bias_act
from ops_cuda.filtered_lrelu import definition, numba_cpu
from ops_cuda.filtered_lrelu.definition import Geometry
from ops_cuda.fir import as_padding, filter_size


def fast_paths() -> dict[str, tuple[ModuleType | None, str, str]]:
    """Name → module, device type, and why it cannot be had here (or nothing)."""
    missing = "" if numba_cpu.numba is not None else "Numba is not installed"
    return {"cpu": (numba_cpu, "cpu", missing)}


def _path(x, fu, fd) -> ModuleType:
    """The module that computes values for these tensors: a fast path or the definition."""
    for name, (path, device_type, missing) in fast_paths().items():
        fits = not missing and x.device.type == device_type and choose.allows(name)
        if fits and path.supports(x, fu, fd) and choose.trusted(path, name, x.device):
            return path
    return definition


class _FilteredLrelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, b, fu, fd, geometry: Geometry):
        ctx.geometry, ctx.x_shape, ctx.path = geometry, x.shape, _path(x, fu, fd)
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return ctx.path.forward(x, fu, fd, b, geometry)
        y, states = ctx.path.forward_with_states(x, fu, fd, b, geometry)
        ctx.save_for_backward(fu, fd, states)
        return y

    @staticmethod
    def backward(ctx, dy):
        fu, fd, states = ctx.saved_tensors
        geometry = ctx.geometry.transposed(ctx.x_shape, fu, fd)
        dx = _Linear.apply(dy, fd, fu, states, geometry, ctx.path)
        db = dx.sum([0, 2, 3]) if ctx.needs_input_grad[1] else None
        return dx, db, None, None, None


class _Linear(torch.autograd.Function):
    """With the slopes fixed the operator is linear: its gradient is another such call."""

    @staticmethod
    def forward(ctx, x, fu, fd, states, geometry: Geometry, path):
        ctx.geometry, ctx.x_shape, ctx.path = geometry, x.shape, path
        ctx.save_for_backward(fu, fd, states)
        return path.linear(x, fu, fd, states, geometry)

    @staticmethod
    def backward(ctx, dy):
        fu, fd, states = ctx.saved_tensors
        geometry = ctx.geometry.transposed(ctx.x_shape, fu, fd)
        dx = _Linear.apply(dy, fd, fu, states, geometry, ctx.path)
        return dx, None, None, None, None, None


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = SQRT2,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> torch.Tensor:
    """Bias, upsample, leaky ReLU, downsample: a nonlinearity that does not alias (FACTS 1.5).

    Args:
        x: `[N, C, H, W]`, any floating dtype.
        fu, fd: filters of the upsampling and downsampling, `[taps]`, `[taps_y, taps_x]` or None.
        b: bias `[C]` or None.
        up, down: integer factors.
        padding: with respect to the upsampled image; a number, (x, y) or (l, r, t, b).
        gain, slope, clamp: of the leaky ReLU; the clamp acts after the gain, None leaves it out.
        flip_filter: False convolves with both filters, True correlates.

    Returns `[N, C, H', W']`, `W' = (W·up + l + r − (fu_w−1) − (fd_w−1) + down − 1) // down`.
    Differentiable to any order in `x` and `b`. Raises ValueError on sizes that do not fit.
    """
    if x.ndim != 4:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected [N, C, H, W]")
    if b is not None and b.shape != (x.shape[1],):
        raise ValueError(f"b: got shape {tuple(b.shape)}, expected [{x.shape[1]}]")
    if up < 1 or down < 1:
        raise ValueError(f"up, down: got {up}, {down}, expected factors of at least 1")
    padding = as_padding(padding)
    one_by_one = filter_size(fu) == filter_size(fd) == (1, 1)
    if fu is None and fd is None and up == down == 1 and padding == (0, 0, 0, 0) and one_by_one:
        return bias_act(x, b, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    geometry = Geometry(up, down, padding, float(gain), float(slope), clamp, flip_filter)
    geometry.output_size(x.shape[3], x.shape[2], fu, fd)
    return _FilteredLrelu.apply(x, b, fu, fd, geometry)
