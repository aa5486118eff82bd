"""Plain PyTorch for linear, relu and lrelu: all steps after the first work in place.

On large images each temporary costs as much as the arithmetic. The gradient only needs the output:
its sign gives the slope, its magnitude whether the clamp was active.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.bias_act.reference import negative_slope

DEVICE_TYPE = None  # any
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def missing() -> str:
    """Return "": plain PyTorch is always available."""
    return ""


def supports(act: str, alpha: float, gain: float) -> bool:
    """Whether the sign of the output determines the sign of the input."""
    return negative_slope(act, alpha) is not None and gain > 0


def forward(x, b, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """Return the values of the reference implementation in a new tensor."""
    if b is None:
        # The steps below work in place, and a custom operator must not change its input.
        y = x.clone()
    else:
        y = x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    slope = _slope(act, alpha)
    if slope != 1:
        F.leaky_relu_(y, slope)
    if gain != 1:
        y.mul_(gain)
    if clamp is not None:
        y.clamp_(-clamp, clamp)
    return y


def gradient(
    dy, source, b, dim: int, act: str, alpha: float, gain: float, clamp: float | None, order: int
) -> Tensor:
    """Return `dy` times the slope, given the output `source`."""
    assert order == 1 and b is None
    slope = _slope(act, alpha)
    dx = dy if gain == 1 else dy * gain
    if slope != 1:
        dx = torch.ops.aten.leaky_relu_backward(dx, source, slope, True)
    if clamp is not None:
        dx = torch.ops.aten.hardtanh_backward(dx, source, -clamp, clamp)
    return dx.clone() if dx is dy else dx  # a custom operator must not return its input


def _slope(act: str, alpha: float) -> float:
    slope = negative_slope(act, alpha)
    assert slope is not None, "only called where `supports` is true"
    return slope
