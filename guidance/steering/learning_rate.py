"""How the learning rate runs over a steering, and when it has run long enough."""

from __future__ import annotations

import math

import torch


def _ramp(t: float) -> float:
    """Short warm-up, cosine fall over the last quarter (REFERENCE.md §8.2); t in (0, 1]."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))


def _cosine(t: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * t)


#: Share of the learning rate at the share t of the steps, in [0, 1), before the warm-up.
SCHEDULES = {"ramp": _ramp, "cosine": _cosine, "constant": lambda t: 1.0}
WARM_UP = 0.05


def learning_rate(step: int, config) -> float:
    """Of `step` (from 0) with the `lr`, `steps` and `schedule` of a `SteerConfig`."""
    steps = max(config.steps, 1)
    warm_up = 1.0 if config.schedule == "constant" else min(1, (step + 1) / steps / WARM_UP)
    return config.lr * warm_up * SCHEDULES[config.schedule](step / steps)


class Stall:
    """Says which of B runs have stopped getting better: their averaged loss has not fallen by
    `least` over the last `patience` steps. With patience 0 none ever has."""

    #: Share of the old in the average: losses under random views are noisy.
    SMOOTHING = 0.9

    def __init__(self, count: int, patience: int, least: float):
        self.patience, self.least = patience, least
        self.smooth = torch.zeros(count, dtype=torch.float64)
        self.best = torch.full([count], math.inf, dtype=torch.float64)
        self.since = torch.zeros(count, dtype=torch.int64)
        self.stalled = torch.zeros(count, dtype=torch.bool)
        self.steps = 0

    def add(self, losses: torch.Tensor) -> torch.Tensor:
        """Take the next losses `[B]` → which have stalled, bool `[B]`; once stalled, for good."""
        losses = losses.detach().double().cpu()
        share = 0.0 if self.steps == 0 else self.SMOOTHING
        self.smooth = share * self.smooth + (1 - share) * losses
        better = self.smooth < self.best - self.least
        self.best = torch.where(better, self.smooth, self.best)
        self.since = torch.where(better, 0, self.since + 1)
        self.steps += 1
        if self.patience:
            self.stalled = self.stalled | (self.since >= self.patience)
        return self.stalled
