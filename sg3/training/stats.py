"""Statistics that the loss reports, and the ADA controller that follows one of them.

Both keep sums on the device, as float64 tensors where it has them; only reading synchronizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sg3.devices import sum_dtype

#: Sums a tensor over all processes, in place, and returns it (`Team.sum_`).
Sum = Callable[[torch.Tensor], torch.Tensor]


class Statistics:
    """Count, mean and standard deviation of everything reported since the last `pop`."""

    def __init__(self) -> None:
        self._moments: dict[str, torch.Tensor] = {}

    def report(self, name: str, values: torch.Tensor | float) -> None:
        """Add `values` (any shape) to the statistics of `name`."""
        values = torch.as_tensor(values).detach()
        values = values.to(sum_dtype(values.device)).flatten()
        ones = torch.ones_like(values)
        moments = torch.stack([ones.sum(), values.sum(), values.square().sum()])
        previous = self._moments.get(name)
        self._moments[name] = moments if previous is None else previous + moments

    def pop(self, sum_: Sum | None = None) -> dict[str, dict[str, float]]:
        """Return `{name: {num, mean, std}}` since the last call and reset.

        `sum_` sums over processes, which must all have reported the same names.
        """
        # Sorted: every process stacks the same names in the same order.
        names = sorted(self._moments)
        if sum_ is not None and names:
            summed = sum_(torch.stack([self._moments[name] for name in names]))
            self._moments = dict(zip(names, summed, strict=True))
        result = {}
        for name, moments in sorted(self._moments.items()):
            count, total, squares = moments.tolist()
            mean = total / count if count else math.nan
            spread = squares / count - mean * mean if count else math.nan
            # Rounding can make the variance of equal values slightly negative.
            std = math.sqrt(max(spread, 0.0)) if math.isfinite(spread) else math.nan
            result[name] = {"num": int(count), "mean": mean, "std": std}
        self._moments = {}
        return result

    def state(self) -> dict[str, torch.Tensor]:
        """Return the sums, for the training state."""
        return {name: moments.cpu() for name, moments in self._moments.items()}

    def load_state(self, state: dict[str, torch.Tensor], device: torch.device) -> None:
        """Continue from the result of `state`."""
        self._moments = {n: m.to(sum_dtype(device)).to(device) for n, m in state.items()}


@dataclass(frozen=True)
class AdaConfig:
    """Settings of an adaptive probability (ADA Sec. 3.1, APA Sec. 3; REFERENCE.md §4.6).

    Attributes:
        target: wanted mean sign of D's logits on real images.
        interval: batches between adjustments.
        kimg: images, in thousands, in which p can move by 1.
    """

    target: float = 0.6
    interval: int = 4
    kimg: float = 500


def adjusted_p(p: float, sign_mean: float, config: AdaConfig, batch: int) -> float:
    """Return p after `interval` batches with the mean sign `sign_mean` of D on real images.

    p moves by a fixed step, whatever the distance to the target, and is not limited to 1.
    """
    direction = (sign_mean > config.target) - (sign_mean < config.target)
    return max(p + direction * batch * config.interval / (config.kimg * 1000), 0.0)


class AdaController:
    """Accumulates the signs of D on real images and adjusts `pipe.p`.

    Args:
        pipe: a module with the buffer `p`.
        config: target and speed.
    """

    def __init__(self, pipe: nn.Module, config: AdaConfig):
        self.pipe, self.config = pipe, config
        self._moments = torch.zeros([2], dtype=sum_dtype(self._p.device), device=self._p.device)

    @property
    def _p(self) -> torch.Tensor:
        return self.pipe.get_buffer("p")

    def observe(self, signs: torch.Tensor) -> None:
        """Add the signs of D's logits on real images."""
        signs = signs.detach().to(sum_dtype(signs.device))
        self._moments += torch.stack([torch.ones_like(signs).sum(), signs.sum()])

    def moments(self) -> torch.Tensor:
        """Return a copy of count and sum of the signs since the last adjustment `[2]`."""
        return self._moments.clone()

    def adjust(self, batch_idx: int, batch: int, reduce: Sum | None = None) -> None:
        """Adjust p if it is due.

        Args:
            batch_idx: number of the batch, from 1.
            batch: batch size over all processes.
            reduce: sums over processes.
        """
        if batch_idx % self.config.interval:
            return
        moments = self.moments()
        if reduce is not None:
            moments = reduce(moments)
        count, total = moments.tolist()
        self._moments.zero_()
        if count:
            self._p.fill_(adjusted_p(float(self._p), total / count, self.config, batch))

    def state(self) -> torch.Tensor:
        """Return the sums, for the training state; `pipe.p` is stored separately."""
        return self.moments().cpu()

    def load_state(self, state: torch.Tensor) -> None:
        """Continue from the result of `state`."""
        self._moments.copy_(state)
