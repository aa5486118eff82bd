"""The averaged generator that pictures are taken from (REFERENCE.md §4.7)."""

from __future__ import annotations

import torch
from torch import nn


def ema_beta(batch: int, ema_kimg: float, cur_nimg: int, rampup: float | None) -> float:
    """Weight of the old average: half-life `ema_kimg` thousand images, shorter early on.

    `rampup` limits the half-life to that share of the images seen; None leaves it out.
    """
    half_life = ema_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, cur_nimg * rampup)
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, beta: float) -> None:
    """Pull the parameters of `average` towards `network`; copy its buffers."""
    old, new = list(average.parameters()), list(network.parameters())
    torch._foreach_lerp_(old, new, 1 - beta)
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)
