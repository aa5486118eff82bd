"""The differentiable operator `bias_act`: one gradient formula for all paths."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ops_cuda import choose
from ops_cuda.bias_act import in_place, reference, triton_path
from ops_cuda.bias_act.reference import ACTIVATIONS

PATHS: dict[str, ModuleType] = {
    "reference": reference,
    "triton": triton_path,
    "composed": in_place,
}


def check(path: ModuleType, device: torch.device) -> float:
    """Return the largest relative error of `path`, forward and backward, on a small input."""
    random = torch.Generator().manual_seed(0)
    x, dy = (torch.randn([2, 3, 4, 5], generator=random).to(device) for _ in range(2))
    b = torch.randn([3], generator=random).to(device)
    own, expected = [], []
    for act in ("linear", "lrelu", "swish"):
        if not path.supports(act, 0.2, 1.5):
            continue
        settings = (1, act, 0.2, 1.5, 1.0)
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            y = reference.forward(leaf, b, *settings)
            expected += [y.detach(), torch.autograd.grad(y, leaf, dy)[0]]
        own.append(path.forward(x, b, *settings))
        source, bias = (own[-1], None) if _from_output(act, 0.2, 1.5) else (x, b)
        own.append(path.gradient(dy, source, bias, *settings, 1))
    return choose.relative_error(own, expected)


OPERATOR = choose.Operator("bias_act", PATHS, check)


@choose.constant_when_compiled
def _path_name(device_type: str, dtype: torch.dtype) -> str:
    return OPERATOR.path(device_type, dtype)


def _from_output(act: str, alpha: float, gain: float) -> bool:
    """Whether the slope follows from the output, so that the input need not be saved."""
    return reference.negative_slope(act, alpha) is not None and gain > 0


@torch.library.custom_op("ops_cuda::bias_act", mutates_args=())
def _forward(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    path: str,
) -> Tensor:
    return PATHS[path].forward(x, b, dim, act, alpha, gain, clamp)


@torch.library.custom_op("ops_cuda::bias_act_gradient", mutates_args=())
def _gradient(
    dy: Tensor,
    source: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    order: int,
    path: str,
) -> Tensor:
    """Return `dy` times the derivative of the given order; zero where the clamp is active.

    `source` is the output if `_from_output` (`b` is None then), else the input.
    """
    return PATHS[path].gradient(dy, source, b, dim, act, alpha, gain, clamp, order)


@_forward.register_fake
def _(x, b, dim, act, alpha, gain, clamp, path):
    return torch.empty_like(x)


@_gradient.register_fake
def _(dy, source, b, dim, act, alpha, gain, clamp, order, path):
    return torch.empty_like(source)


def _sum_over_others(dx: Tensor, dim: int) -> Tensor:
    return dx.sum([i for i in range(dx.ndim) if i != dim])


def _remember_forward(ctx, inputs, output) -> None:
    x, b, *ctx.settings, ctx.path = inputs
    _dim, act, alpha, gain, _clamp = ctx.settings
    if _from_output(act, alpha, gain):
        # Second derivatives in x and b are zero. As in PyTorch's own composition, they are present
        # for a leaky ReLU but absent for "linear": Adam updates the state of a parameter whose
        # gradient is zero and skips one that has none, so the difference changes training.
        ctx.save_for_backward(output.detach() if act == "linear" else output, None)
    else:
        ctx.save_for_backward(x, b)


def _forward_backward(ctx, dy):
    source, b = ctx.saved_tensors
    dx = _gradient(dy, source, b, *ctx.settings, 1, ctx.path)
    db = _sum_over_others(dx, ctx.settings[0]) if ctx.needs_input_grad[1] else None
    return dx, db, *[None] * 6


def _remember_gradient(ctx, inputs, output) -> None:
    dy, source, b, *ctx.settings, ctx.order, ctx.path = inputs
    ctx.save_for_backward(dy, source, b)


def _gradient_backward(ctx, ddx):
    dy, source, b = ctx.saved_tensors
    dim, act, alpha, gain, _clamp = ctx.settings
    ddy = _gradient(ddx, source, b, *ctx.settings, ctx.order, ctx.path)
    dsource = db = None
    # The slope of a piecewise linear activation is constant: its second derivative is zero.
    if not _from_output(act, alpha, gain):
        if ctx.order == 2:
            raise RuntimeError(f"bias_act: {act} can be differentiated twice, not three times")
        dsource = _gradient(dy * ddx, source, b, *ctx.settings, 2, ctx.path)
        if b is not None and ctx.needs_input_grad[2]:
            db = _sum_over_others(dsource, dim)
    return ddy, dsource, db, *[None] * 7


_forward.register_autograd(_forward_backward, setup_context=_remember_forward)
_gradient.register_autograd(_gradient_backward, setup_context=_remember_gradient)


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """Add a bias, apply an activation, multiply by a gain and clamp (REFERENCE.md §1.4).

    Twice differentiable in `x` and `b`; the gradient is zero where the clamp is active.

    Args:
        x: tensor of any shape and floating dtype.
        b: bias `[x.shape[dim]]`, or None.
        dim: axis of the bias.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: parameter of the activation (slope of lrelu); None: the activation's default.
        gain: factor after the activation; None: the activation's default (keeps unit variance).
        clamp: clamp the result to [−clamp, clamp]; None: no clamp.

    Returns:
        A tensor with the shape and dtype of `x`.

    Raises:
        ValueError: unknown activation, a bias of another shape or a negative clamp.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"act: got {act!r}, expected one of {', '.join(ACTIVATIONS)}")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim: got {dim}, expected an axis of x with shape {tuple(x.shape)}")
    dim %= x.ndim
    if b is not None and b.shape != (x.shape[dim],):
        raise ValueError(f"b: got shape {tuple(b.shape)}, expected [{x.shape[dim]}]")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp: got {clamp}, expected None or at least 0")
    alpha = float(ACTIVATIONS[act].alpha if alpha is None else alpha)
    gain = float(ACTIVATIONS[act].gain if gain is None else gain)
    clamp = None if clamp is None else float(clamp)
    if b is None and act == "linear" and gain == 1 and clamp is None:
        return x
    path = "reference" if choose.exporting() else _path_name(x.device.type, x.dtype)
    if path == "reference" or not PATHS[path].supports(act, alpha, gain):
        return reference.forward(x, b, dim, act, alpha, gain, clamp)
    return _forward(x, b, dim, act, alpha, gain, clamp, path)
