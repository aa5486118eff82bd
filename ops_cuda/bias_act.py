"""`bias_act`: per-channel bias, activation, gain and clamp in one step (FACTS 1.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Activation:
    """An activation with its customary slope and the gain that keeps unit variance."""

    function: Callable[[torch.Tensor, float], torch.Tensor]
    alpha: float
    gain: float


SQRT2 = 2**0.5
ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x, a: x, 0, 1),
    "relu": Activation(lambda x, a: F.relu(x), 0, SQRT2),
    "lrelu": Activation(lambda x, a: F.leaky_relu(x, a), 0.2, SQRT2),
    "tanh": Activation(lambda x, a: torch.tanh(x), 0, 1),
    "sigmoid": Activation(lambda x, a: torch.sigmoid(x), 0, 1),
    "elu": Activation(lambda x, a: F.elu(x), 0, 1),
    "selu": Activation(lambda x, a: F.selu(x), 0, 1),
    "softplus": Activation(lambda x, a: F.softplus(x), 0, 1),
    "swish": Activation(lambda x, a: torch.sigmoid(x) * x, 0, SQRT2),
}
#: Activations whose slope is one of two constants, told apart by the sign of the output.
PIECEWISE_LINEAR = ("linear", "relu", "lrelu")


def definition(
    x: torch.Tensor,
    b: torch.Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """The specification: `clamp(act(x + b; alpha)·gain, −clamp, +clamp)`."""
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = ACTIVATIONS[act].function(x, alpha)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


class _PiecewiseLinear(torch.autograd.Function):
    """linear, relu and lrelu keep only their output: its sign and size give the slope.

    `slope` is that of the negative side. In place after the first step: on large images every
    temporary costs as much as the arithmetic.
    """

    @staticmethod
    def forward(ctx, x, b, dim, slope, gain, clamp):
        if b is None:
            y = x.clone()
        else:
            y = x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
        if slope != 1:
            F.leaky_relu_(y, slope)
        if gain != 1:
            y.mul_(gain)
        if clamp is not None:
            y.clamp_(-clamp, clamp)
        ctx.dim, ctx.shape, ctx.has_bias = dim, (slope, gain, clamp), b is not None
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx = _Slope.apply(dy, y, *ctx.shape)
        db = None
        if ctx.has_bias and ctx.needs_input_grad[1]:
            db = dx.sum([i for i in range(dx.ndim) if i != ctx.dim])
        return dx, db, None, None, None, None


class _Slope(torch.autograd.Function):
    """`dy` times the slope at `y`: linear in `dy`, so its own gradient is itself."""

    @staticmethod
    def forward(ctx, dy, y, slope, gain, clamp):
        ctx.shape = (slope, gain, clamp)
        ctx.save_for_backward(y)
        dx = dy if gain == 1 else dy * gain
        if slope != 1:
            dx = torch.ops.aten.leaky_relu_backward(dx, y, slope, True)
        if clamp is not None:
            dx = torch.ops.aten.hardtanh_backward(dx, y, -clamp, clamp)
        return dx.clone() if dx is dy else dx

    @staticmethod
    def backward(ctx, ddx):
        (y,) = ctx.saved_tensors
        return _Slope.apply(ddx, y, *ctx.shape), None, None, None, None


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """Add bias `b` `[x.shape[dim]]` to `x` (any shape), activate, multiply by `gain`, clamp.

    `act` is one of linear relu lrelu tanh sigmoid elu selu softplus swish; None for `alpha` and
    `gain` takes that activation's customary values; None for `clamp` leaves it out.
    Differentiable twice in `x` and `b`; the gradient is zero where the clamp is active.
    Raises ValueError for an unknown activation or a bias that does not fit. Source: FACTS 1.4.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"act: got {act!r}, expected one of {', '.join(ACTIVATIONS)}")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim: got {dim}, expected an axis of x with shape {tuple(x.shape)}")
    dim %= x.ndim
    if b is not None and b.shape != (x.shape[dim],):
        raise ValueError(f"b: got shape {tuple(b.shape)}, expected [{x.shape[dim]}]")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp: got {clamp}, expected None or a number of at least 0")
    alpha = float(ACTIVATIONS[act].alpha if alpha is None else alpha)
    gain = float(ACTIVATIONS[act].gain if gain is None else gain)
    if b is None and act == "linear" and gain == 1 and clamp is None:
        return x
    if act in PIECEWISE_LINEAR and alpha >= 0 and gain > 0:
        slope = {"linear": 1.0, "relu": 0.0}.get(act, alpha)
        return _PiecewiseLinear.apply(x, b, dim, slope, gain, clamp)
    return definition(x, b, dim, act, alpha, gain, clamp)
