"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


class Stall:
    """Tracks which of `count` runs have stalled.

    A run stalls once its averaged loss has not fallen by `min_delta` for `patience` steps.

    Args:
        count: number of runs, B.
        patience: 0 never stops.
        min_delta: smallest fall of the averaged loss that counts as progress.
    """

    #: Decay of the moving average: losses under random views are noisy.
    SMOOTHING = 0.9

    def __init__(self, count: int, patience: int, min_delta: float):
        self.patience, self.min_delta = patience, min_delta
        self.smooth = torch.zeros(count, dtype=torch.float64)
        self.best = torch.full([count], math.inf, dtype=torch.float64)
        self.since = torch.zeros(count, dtype=torch.int64)
        self.stalled = torch.zeros(count, dtype=torch.bool)
        self.steps = 0

    def add(self, losses: torch.Tensor) -> torch.Tensor:
        """Record losses `[B]`; return which runs have stalled, bool `[B]`. A stall is final."""
        losses = losses.detach().cpu().double()
        decay = 0.0 if self.steps == 0 else self.SMOOTHING
        self.smooth = decay * self.smooth + (1 - decay) * losses
        better = self.smooth < self.best - self.min_delta
        self.best = torch.where(better, self.smooth, self.best)
        self.since = torch.where(better, 0, self.since + 1)
        self.steps += 1
        if self.patience:
            self.stalled = self.stalled | (self.since >= self.patience)
        return self.stalled

    def state_dict(self) -> dict[str, Any]:
        """Tensors `[B]` and the number of steps."""
        tensors = {"smooth": self.smooth, "best": self.best, "since": self.since}
        return {**tensors, "stalled": self.stalled, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.smooth, self.best = state["smooth"], state["best"]
        self.since, self.stalled = state["since"], state["stalled"]
        self.steps = state["steps"]
