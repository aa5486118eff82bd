"""The path of CPUs for linear, relu and lrelu: in place after the first step.

On large images every temporary costs as much as the arithmetic. The gradient needs only the
output: its sign and size give the slope.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.bias_act.reference import negative_slope

DEVICE_TYPE = "cpu"
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def missing() -> str:
    """Never missing: it is plain PyTorch."""
    return ""


def supports(act: str, alpha: float, gain: float) -> bool:
    """True where the sign of the output says on which side of zero the input was."""
    return negative_slope(act, alpha) is not None and gain > 0


def forward(x, b, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """The definition's values in a new tensor."""
    if b is None:
        y = x.clone()
    else:
        y = x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    slope = negative_slope(act, alpha)
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
    """`dy` times the slope at the output `source`."""
    assert order == 1 and b is None
    slope = negative_slope(act, alpha)
    dx = dy if gain == 1 else dy * gain
    if slope != 1:
        dx = torch.ops.aten.leaky_relu_backward(dx, source, slope, True)
    if clamp is not None:
        dx = torch.ops.aten.hardtanh_backward(dx, source, -clamp, clamp)
    return dx.clone() if dx is dy else dx
