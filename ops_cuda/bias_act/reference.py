"""Reference implementation of `bias_act` and its nine activations (REFERENCE.md §1.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Activation:
    """An activation with its default `alpha` and the gain that keeps unit variance."""

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
#: Activations with two constant slopes, distinguished by the sign of the output.
PIECEWISE_LINEAR = ("linear", "relu", "lrelu")


def forward(
    x: torch.Tensor,
    b: torch.Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """Return `clamp(act(x + b; alpha)·gain, −clamp, +clamp)`."""
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = ACTIVATIONS[act].function(x, alpha)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def negative_slope(act: str, alpha: float) -> float | None:
    """Return the slope for negative inputs of a piecewise linear activation; None for others.

    None also if that slope is negative: the output's sign would not determine the input's.
    """
    slope = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}.get(act)
    return slope if slope is not None and slope >= 0 else None
