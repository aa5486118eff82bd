"""Accumulators for image features: moments, or all vectors.

Each process adds its part; `finish` sums over the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from sg3.devices import precise_device
from sg3.distributed.team import Team

SUM_BYTES = 1 << 28  # features summed over processes at a time

#: Called with the stage, and how many of how many images this process has done.
Progress = Callable[[str, int, int], None]


class Moments:
    """Mean and covariance of features `[N, dim]`, as running sums in float64."""

    def __init__(self, dim: int, num: int, device: torch.device):
        precise = precise_device(device)
        self._count = torch.zeros([1], dtype=torch.float64, device=precise)
        self._sum = torch.zeros([dim], dtype=torch.float64, device=precise)
        self._products = torch.zeros([dim, dim], dtype=torch.float64, device=precise)

    def add(self, rows: np.ndarray, features: torch.Tensor) -> None:
        """Add features `[B, dim]` of the samples `rows`."""
        # `finish` takes a difference of large sums, hence float64.
        x = features.to(self._sum.device, torch.float64)
        self._count += len(x)
        self._sum += x.sum(dim=0)
        self._products.addmm_(x.T, x)

    def finish(self, team: Team) -> dict[str, torch.Tensor]:
        """Return mean `[dim]` and covariance `[dim, dim]` (divided by N) over all processes."""
        for tensor in (self._count, self._sum, self._products):
            team.sum_(tensor)
        mean = self._sum / self._count
        covariance = self._products / self._count - torch.outer(mean, mean)
        return {"mean": mean.cpu(), "covariance": covariance.cpu()}


class AllFeatures:
    """All feature vectors, float32 `[num, dim]` in memory, in sample order."""

    def __init__(self, dim: int, num: int, device: torch.device):
        self._kept = torch.zeros([num, dim])
        self._device = device

    def add(self, rows: np.ndarray, features: torch.Tensor) -> None:
        """Add features `[B, dim]` of the samples `rows`."""
        self._kept[torch.from_numpy(rows)] = features.to("cpu", torch.float32)

    def finish(self, team: Team) -> dict[str, torch.Tensor]:
        """Return features `[num, dim]` of all processes."""
        if team.size > 1:  # rows of other processes are zero here
            for part in self._kept.split(max(1, SUM_BYTES // (4 * self._kept.shape[1]))):
                part.copy_(team.sum_(part.to(self._device, copy=True)))
        return {"features": self._kept}


@torch.no_grad()
def collect(
    what: str,
    source: Iterable[tuple[np.ndarray, torch.Tensor]],
    network: Callable[[torch.Tensor], torch.Tensor],
    into: Moments | AllFeatures,
    team: Team,
    num: int,
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """Compute and accumulate the features of a source of images.

    Args:
        what: name of the stage, for `progress` and messages.
        source: batches from `sg3.metrics.sampling`.
        network: maps images to features.
        into: the accumulator.
        team: the processes that measure together.
        num: number of samples over all processes.
        progress: called after each batch.

    Returns the result of `into.finish`. Raises ValueError for features that are not finite, which
    a diverged generator produces.
    """
    done, total = 0, -(-num // team.size)
    progress(what, done, total)
    for rows, images in source:
        into.add(rows, network(images))
        done += len(rows)
        progress(what, min(done, total), total)
    found = into.finish(team)
    # After the sum over processes: so all of them raise, and none waits for another.
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        raise ValueError(f"metrics: features of {what} contain NaN or infinity")
    return found
