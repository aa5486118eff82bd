"""Running statistics of named values between two looks at them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


class Statistics:
    """Count, mean and standard deviation of everything reported since the last `pop`.

    Sums stay on the device as float64 moments; reading them is what synchronises.
    """

    def __init__(self):
        self._moments: dict[str, torch.Tensor] = {}

    def report(self, name: str, values: torch.Tensor | float) -> None:
        """Add `values` (any shape) under `name`."""
        values = torch.as_tensor(values).detach().to(torch.float64).flatten()
        ones = torch.ones_like(values)
        moments = torch.stack([ones.sum(), values.sum(), values.square().sum()])
        previous = self._moments.get(name)
        self._moments[name] = moments if previous is None else previous + moments

    def pop(
        self, sum_: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> dict[str, dict[str, float]]:
        """`{name: {num, mean, std}}` since the last call; starts afresh.

        `sum_` adds a tensor up over the processes in place; all must have reported the same names.
        """
        names = sorted(self._moments)
        if sum_ is not None and names:
            summed = sum_(torch.stack([self._moments[name] for name in names]))
            self._moments = dict(zip(names, summed, strict=True))
        result = {}
        for name, moments in sorted(self._moments.items()):
            count, total, squares = moments.tolist()
            mean = total / count if count else math.nan
            spread = squares / count - mean * mean if count else math.nan
            std = math.sqrt(max(spread, 0.0)) if math.isfinite(spread) else math.nan
            result[name] = {"num": int(count), "mean": mean, "std": std}
        self._moments = {}
        return result

    def state(self) -> dict[str, torch.Tensor]:
        """For the training state."""
        return {name: moments.cpu() for name, moments in self._moments.items()}

    def load_state(self, state: dict[str, torch.Tensor], device: torch.device) -> None:
        """Continue from `state()`."""
        self._moments = {name: moments.to(device) for name, moments in state.items()}
