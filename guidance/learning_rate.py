"""Learning-rate schedules of steering and projection."""

from __future__ import annotations

import math
from collections.abc import Callable


def _ramp(t: float) -> float:
    """Constant, then a cosine decay over the last quarter (REFERENCE.md §8.2)."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))


def _cosine(t: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * t)


#: Factor of the learning rate after the fraction t in [0, 1) of all steps, without warm-up.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "ramp": _ramp,
    "cosine": _cosine,
    "constant": lambda t: 1.0,
}
#: Fraction of the steps over which the learning rate rises linearly, unless it is constant.
WARM_UP = 0.05


def learning_rate(step: int, steps: int, lr: float, schedule: str = "ramp") -> float:
    """Learning rate at `step` (from 0) of `steps`.

    Args:
        step: index of the step.
        steps: length of the run.
        lr: learning rate after the warm-up.
        schedule: a name in `SCHEDULES`.
    """
    steps = max(steps, 1)
    # From step + 1, so that the first step already moves.
    warm_up = 1.0 if schedule == "constant" else min(1, (step + 1) / steps / WARM_UP)
    return lr * warm_up * SCHEDULES[schedule](step / steps)
