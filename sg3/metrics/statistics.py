"""What is kept of the features of many pictures: two moments, or every vector.

Both are filled by each process with its share, then summed over the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch

SUM_BYTES = 1 << 28  # of kept features that travel at a time

#: Told what is being done, how much of it this process has done, and how much there is to do.
Progress = Callable[[str, int, int], None]


class TeamLike(Protocol):
    """The processes that measure together (`sg3.distributed.team.Team`)."""

    rank: int
    size: int

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, in place; returns it."""
        ...


def precise_device(device: torch.device) -> torch.device:
    """Where float64 can be computed: on `device`, unless that is Apple's GPU."""
    return torch.device("cpu") if device.type == "mps" else device


class Moments:
    """Mean and covariance of features `[N, dim]`, as running sums in float64."""

    def __init__(self, dim: int, num: int, device: torch.device):
        options = {"dtype": torch.float64, "device": precise_device(device)}
        self._count = torch.zeros([1], **options)
        self._sum, self._products = (
            torch.zeros([dim], **options),
            torch.zeros([dim, dim], **options),
        )

    def add(self, rows: np.ndarray, features: torch.Tensor) -> None:
        """`features` `[B, dim]` of the samples `rows`."""
        x = features.to(self._sum.device, torch.float64)
        self._count += len(x)
        self._sum += x.sum(dim=0)
        self._products.addmm_(x.T, x)

    def finish(self, team: TeamLike) -> dict[str, torch.Tensor]:
        """`mean` `[dim]` and `covariance` `[dim, dim]` (divided by N) over all processes."""
        for tensor in (self._count, self._sum, self._products):
            team.sum_(tensor)
        mean = self._sum / self._count
        covariance = self._products / self._count - torch.outer(mean, mean)
        return {"mean": mean.cpu(), "covariance": covariance.cpu()}


class AllFeatures:
    """Every feature vector, float32 `[num, dim]` in memory, in the order of the samples."""

    def __init__(self, dim: int, num: int, device: torch.device):
        self._kept = torch.zeros([num, dim])
        self._device = device

    def add(self, rows: np.ndarray, features: torch.Tensor) -> None:
        """`features` `[B, dim]` of the samples `rows`."""
        self._kept[torch.from_numpy(rows)] = features.to("cpu", torch.float32)

    def finish(self, team: TeamLike) -> dict[str, torch.Tensor]:
        """`features` `[num, dim]` of all processes."""
        if team.size > 1:  # the others' rows are zero here
            for part in self._kept.split(max(1, SUM_BYTES // (4 * self._kept.shape[1]))):
                part.copy_(team.sum_(part.to(self._device, copy=True)))
        return {"features": self._kept}


@torch.no_grad()
def collect(
    what: str,
    source: Iterable[tuple[np.ndarray, torch.Tensor]],
    network: Callable[[torch.Tensor], torch.Tensor],
    into: Moments | AllFeatures,
    team: TeamLike,
    num: int,
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """Run `network` over `source` (`sg3.metrics.sampling`) of `num` samples in all.

    Raises ValueError for features that are not finite: a network that has diverged.
    """
    done, total = 0, -(-num // team.size)
    progress(what, done, total)
    for rows, images in source:
        into.add(rows, network(images))
        done += len(rows)
        progress(what, min(done, total), total)
    found = into.finish(team)
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        raise ValueError(f"metrics: features of {what} contain NaN or infinity")
    return found
