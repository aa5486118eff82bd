"""Power-function averages of a network's parameters, and what can be made of them afterwards.

Mathematics of Karras et al. 2024 (arXiv 2312.02696, Sec. 3.1 and 3.2, App. C); REFERENCE.md §4.13.
`sg3.training.posthoc_ema` has the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sg3.errors import UserError
from sg3.training.config import MAX_EMA_LENGTH


def sigma_rel_of(gamma: float) -> float:
    """Return the EMA length: the standard deviation of the profile `t^gamma` on [0, 1]."""
    return (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent of the power function with EMA length `sigma_rel`.

    Raises ValueError unless `sigma_rel` is above 0 and below 1/√12, the length of the plain mean.
    """
    if not 0 < sigma_rel < MAX_EMA_LENGTH:
        raise UserError(
            f"length: got {sigma_rel}, expected above 0 and below {MAX_EMA_LENGTH:.4f} (the mean "
            "of all steps)"
        )
    # sigma_rel_of(gamma) = sigma_rel, squared and multiplied out: a cubic with one root above 0.
    s = sigma_rel**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def beta_of(gamma: float, nimg: int, batch: int) -> float:
    """Return the decay of a step of `batch` images that ends at `nimg` images.

    The average is then exact for parameters that are constant within a step, and the first step
    forgets the initial weights: its decay is 0.
    """
    return (1 - batch / nimg) ** (gamma + 1)


@dataclass(frozen=True)
class Profile:
    """Weights over time `(gamma + 1)·τ^gamma/t^(gamma + 1)`, τ in [0, t]: they integrate to 1."""

    gamma: float
    t: float


def inner_product(a: Profile, b: Profile) -> float:
    """Return the integral over time of the product of two profiles."""
    early, late = (a, b) if a.t < b.t else (b, a)
    gain = (a.gamma + 1) * (b.gamma + 1) / (a.gamma + b.gamma + 1)
    return gain * (early.t / late.t) ** late.gamma / late.t


def solve_weights(stored: Sequence[Profile], target: Profile) -> tuple[np.ndarray, float]:
    """Return the weights that combine `stored` profiles into the nearest one to `target`.

    Least squares over time (App. C), with one condition of ours: the weights add up to 1. Then
    what the parameters have in common at all times is kept exactly.

    Returns:
        The weights, and the error: the norm of the difference of profiles over that of `target`.
    """
    products = np.array([[inner_product(a, b) for b in stored] for a in stored])
    wanted = np.array([inner_product(a, target) for a in stored])
    # Profiles are scaled to norm 1: norms grow as time is short, which would look like a rank.
    scale = np.diag(products) ** -0.5
    count = len(stored)
    system = np.zeros([count + 1, count + 1])
    system[:count, :count] = products * scale * scale[:, None]
    system[:count, count] = system[count, :count] = scale
    right = np.append(wanted * scale, 1)
    # Neighbours of a long run are almost parallel: tiny singular values only amplify rounding.
    weights = np.linalg.lstsq(system, right, rcond=1e-10)[0][:count] * scale
    norm = inner_product(target, target)
    distance = weights @ products @ weights - 2 * weights @ wanted + norm
    return weights, float(max(distance / norm, 0) ** 0.5)


class PowerEMA:
    """Power-function averages of a network's parameters during training, in float32.

    Args:
        network: the network; its parameters define the shapes.
        lengths: EMA lengths (`sigma_rel`); without any, nothing is stored or computed.
    """

    def __init__(self, network: nn.Module, lengths: Sequence[float] = ()):
        self.lengths = tuple(lengths)
        self._gammas = [gamma_of(length) for length in self.lengths]
        self.averages = [
            {name: torch.zeros_like(p) for name, p in network.named_parameters()}
            for _ in self.lengths
        ]

    @torch.no_grad()
    def update(self, network: nn.Module, nimg: int, batch: int) -> None:
        """Add the parameters after a step of `batch` images that ended at `nimg` images."""
        new: list[torch.Tensor] = list(network.parameters())
        for gamma, average in zip(self._gammas, self.averages, strict=True):
            torch._foreach_lerp_(list(average.values()), new, 1 - beta_of(gamma, nimg, batch))

    def state(self) -> list[dict[str, torch.Tensor]]:
        """Return the averages for the training state."""
        return self.averages

    def load_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Continue from the result of `state`."""
        for average, saved in zip(self.averages, state, strict=True):
            for name, tensor in average.items():
                tensor.copy_(saved[name])
