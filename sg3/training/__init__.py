"""Training: options, losses, the step, the loop.

Names are imported on first use, so that `sg3.training.config` does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sg3.training.callbacks import Callback, RunInfo, TrainStep
    from sg3.training.config import TrainConfig
    from sg3.training.dry_run import describe
    from sg3.training.loop import train
    from sg3.training.loss import GANLoss, LossConfig
    from sg3.training.posthoc_ema import rebuild_ema

__all__ = [
    "Callback",
    "GANLoss",
    "LossConfig",
    "RunInfo",
    "TrainConfig",
    "TrainStep",
    "describe",
    "rebuild_ema",
    "train",
]

_MODULES = {
    "Callback": "callbacks",
    "GANLoss": "loss",
    "LossConfig": "loss",
    "TrainConfig": "config",
    "RunInfo": "callbacks",
    "TrainStep": "callbacks",
    "describe": "dry_run",
    "rebuild_ema": "posthoc_ema",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"sg3.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'sg3.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
