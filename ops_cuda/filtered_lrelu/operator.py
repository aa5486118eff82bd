"""The differentiable operator `filtered_lrelu`: one gradient formula for all paths."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from einops import einsum
from torch import Tensor

from ops_cuda import choose
from ops_cuda.bias_act import SQRT2, bias_act
from ops_cuda.filtered_lrelu import composed, numba_cpu, reference, triton_path
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.fir import as_padding, filter_size, memory_format_of

PATHS: dict[str, ModuleType] = {
    "reference": reference,
    "cpu": numba_cpu,
    "triton": triton_path,
    "composed": composed,
}


def check(path: ModuleType, device: torch.device) -> float:
    """Return the largest relative error of `path`, forward and backward, on a small input."""
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, [1, 3, 9, 11], generator=random).float()
    b = torch.randint(-3, 4, [3], generator=random).float()
    # Small integers over powers of two: without rounding, all paths agree on every sign.
    fu, fd = (torch.randint(1, 9, [12], generator=random).float() / 32 for _ in range(2))
    x, b, fu, fd = (t.to(device) for t in (x, b, fu, fd))
    geometry = Geometry(2, 2, (9, 8, 9, 8), 2.0, 0.25, 16.0, False)
    back = geometry.transposed(x.shape, fu, fd)
    y, states = reference.forward_with_states(x, fu, fd, b, geometry)
    own_y, own_states = path.forward_with_states(x, fu, fd, b, geometry)
    own = [
        own_y,
        path.forward(x, fu, fd, b, geometry),
        path.linear(y, fd, fu, own_states, back),
    ]
    return choose.relative_error(own, [y, y, reference.linear(y, fd, fu, states, back)])


OPERATOR = choose.Operator("filtered_lrelu", PATHS, check)


@choose.constant_when_compiled
def _path_name(device_type: str, dtype: torch.dtype) -> str:
    return OPERATOR.path(device_type, dtype)


@torch.library.custom_op("ops_cuda::filtered_lrelu", mutates_args=())
def _forward(
    x: Tensor,
    b: Tensor | None,
    scale: Tensor | None,
    fu: Tensor | None,
    fd: Tensor | None,
    up: int,
    down: int,
    padding: Sequence[int],
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
    keep_states: bool,
    path: str,
) -> tuple[Tensor, Tensor]:
    """Return the result, and slope states in the path's own layout (empty unless `keep_states`)."""
    geometry = Geometry(up, down, as_padding(padding), gain, slope, clamp, flip_filter)
    if keep_states:
        y, states = PATHS[path].forward_with_states(x, fu, fd, b, geometry, scale)
    else:
        y = PATHS[path].forward(x, fu, fd, b, geometry, scale)
        states = x.new_empty([0], dtype=torch.uint8)
    return y.contiguous(memory_format=memory_format_of(x)), states.contiguous()


@torch.library.custom_op("ops_cuda::filtered_lrelu_linear", mutates_args=())
def _linear(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    states: Tensor,
    up: int,
    down: int,
    padding: Sequence[int],
    gain: float,
    slope: float,
    flip_filter: bool,
    offset: Sequence[int],
    path: str,
) -> Tensor:
    """With fixed slopes the operator is linear, so its gradient is another call of this one."""
    geometry = _linear_geometry(up, down, padding, gain, slope, flip_filter, offset)
    y = PATHS[path].linear(x, fu, fd, states, geometry)
    return y.contiguous(memory_format=memory_format_of(x))


def _linear_geometry(up, down, padding, gain, slope, flip_filter, offset) -> Geometry:
    """Geometry of a linear call, from the lists that custom operators pass."""
    x, y = offset
    return Geometry(up, down, as_padding(padding), gain, slope, None, flip_filter, (x, y))


def _empty_result(x, fu, fd, geometry: Geometry) -> Tensor:
    width, height = geometry.output_size(x.shape[3], x.shape[2], fu, fd)
    y = x.new_empty([x.shape[0], x.shape[1], height, width])
    return y.contiguous(memory_format=memory_format_of(x))


@_forward.register_fake
def _(x, b, scale, fu, fd, up, down, padding, gain, slope, clamp, flip, keep_states, path):
    geometry = Geometry(up, down, as_padding(padding), gain, slope, clamp, flip)
    shape = [0]
    if keep_states:
        shape = PATHS[path].states_shape(x.shape, fu, fd, geometry)
    states = x.new_empty(shape, dtype=torch.uint8)
    return _empty_result(x, fu, fd, geometry), states


@_linear.register_fake
def _(x, fu, fd, states, up, down, padding, gain, slope, flip_filter, offset, path):
    geometry = _linear_geometry(up, down, padding, gain, slope, flip_filter, offset)
    return _empty_result(x, fu, fd, geometry)


def _carry_back(dy, fu, fd, states, back: Geometry, path: str) -> Tensor:
    """Gradient of the input: the adjoint swaps the two filters and the two factors."""
    return _linear(
        dy, fd, fu, states, back.up, back.down, back.padding, back.gain, back.slope,
        back.flip_filter, back.offset, path,
    )  # fmt: skip


def _remember_forward(ctx, inputs, output) -> None:
    x, _b, scale, fu, fd, *settings, _keep_states, ctx.path = inputs
    up, down, padding, gain, slope, clamp, flip_filter = settings
    geometry = Geometry(up, down, as_padding(padding), gain, slope, clamp, flip_filter)
    ctx.back = geometry.transposed(x.shape, fu, fd)
    # The input is kept only for the gradient of `scale`.
    ctx.save_for_backward(fu, fd, output[1], scale, None if scale is None else x)


def _forward_backward(ctx, dy, _dstates):
    fu, fd, states, scale, x = ctx.saved_tensors
    dx = _carry_back(dy, fu, fd, states, ctx.back, ctx.path)
    db = dx.sum([0, 2, 3]) if ctx.needs_input_grad[1] else None
    dscale = None
    if scale is not None:
        if ctx.needs_input_grad[2]:
            dscale = einsum(dx, x, "n c h w, n c h w -> n c")
        factors = scale[:, :, None, None]
        # `dx` was allocated here: scale it in place unless autograd records this backward pass.
        dx = dx * factors if torch.is_grad_enabled() else dx.mul_(factors)
    return dx, db, dscale, *[None] * 11


def _remember_linear(ctx, inputs, output) -> None:
    x, fu, fd, states, up, down, padding, gain, slope, flip_filter, offset, ctx.path = inputs
    geometry = _linear_geometry(up, down, padding, gain, slope, flip_filter, offset)
    ctx.back = geometry.transposed(x.shape, fu, fd)
    ctx.save_for_backward(fu, fd, states)


def _linear_backward(ctx, dy):
    fu, fd, states = ctx.saved_tensors
    return _carry_back(dy, fu, fd, states, ctx.back, ctx.path), *[None] * 11


_forward.register_autograd(_forward_backward, setup_context=_remember_forward)
_linear.register_autograd(_linear_backward, setup_context=_remember_linear)


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
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add a bias, upsample, apply a leaky ReLU, downsample (REFERENCE.md §1.5).

    The nonlinearity acts on a finer grid, where the frequencies that it creates can be filtered
    out before they alias. Differentiable to any order in `x`, `b` and `scale`.

    Args:
        x: `[N, C, H, W]`, any floating dtype.
        fu: upsampling filter `[taps]`, `[taps_y, taps_x]` or None.
        fd: downsampling filter `[taps]`, `[taps_y, taps_x]` or None.
        b: bias `[C]` or None.
        up: upsampling factor.
        down: downsampling factor.
        padding: relative to the upsampled image; a number, (x, y) or (left, right, top, bottom).
        gain: gain of the leaky ReLU.
        slope: slope of the leaky ReLU for negative inputs.
        clamp: clamp after the gain to [−clamp, clamp]; None: no clamp.
        flip_filter: False convolves with both filters, True correlates.
        scale: `[N, C]`, multiplies `x` before the bias; faster than a multiplication outside.

    Returns:
        `[N, C, H', W']` with
        `W' = (W·up + left + right − (fu_w−1) − (fd_w−1) + down − 1) // down`.

    Raises:
        ValueError: a shape does not match, or the image is too small.
    """
    if x.ndim != 4:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected [N, C, H, W]")
    if b is not None and b.shape != (x.shape[1],):
        raise ValueError(f"b: got shape {tuple(b.shape)}, expected [{x.shape[1]}]")
    if scale is not None and scale.shape != x.shape[:2]:
        raise ValueError(f"scale: got {tuple(scale.shape)}, expected {tuple(x.shape[:2])}")
    if up < 1 or down < 1:
        raise ValueError(f"up, down: got {up}, {down}, expected factors of at least 1")
    padding = as_padding(padding)
    one_by_one = filter_size(fu) == filter_size(fd) == (1, 1)
    if fu is None and fd is None and up == down == 1 and padding == (0, 0, 0, 0) and one_by_one:
        x = x if scale is None else x * scale[:, :, None, None]
        return bias_act(x, b, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    geometry = Geometry(up, down, padding, float(gain), float(slope), clamp, flip_filter)
    geometry.output_size(x.shape[3], x.shape[2], fu, fd)
    if choose.exporting():
        return reference.forward(x, fu, fd, b, geometry, scale)
    # Storing the states costs time and memory: only for a backward pass.
    wants_gradient = any(t is not None and t.requires_grad for t in (x, b, scale))
    return _forward(
        x, b, scale, fu, fd, up, down, padding, float(gain), float(slope),
        None if clamp is None else float(clamp), flip_filter,
        torch.is_grad_enabled() and wants_gradient, _path_name(x.device.type, x.dtype),
    )[0]  # fmt: skip
