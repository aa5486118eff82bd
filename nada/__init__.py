"""Text-driven domain adaptation of a generator (StyleGAN-NADA).

Names are resolved on first use, so that `import nada` does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sg3.installation import check_packages

check_packages("ops_cuda", "guidance", "nada")

if TYPE_CHECKING:
    from nada.adaptation import Adaptation, AdaptStep, adapt
    from nada.adaptation_record import AdaptationRecord, RecordConfig
    from nada.config import AdaptConfig, StopRule, ViewConfig, Weights
    from sg3.checkpoints.delta import (
        Delta,
        DeltaMix,
        apply_deltas,
        difference,
        load_delta,
        merge,
        save_delta,
    )

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation
__all__ = [
    "AdaptConfig",
    "AdaptStep",
    "Adaptation",
    "AdaptationRecord",
    "Delta",
    "DeltaMix",
    "RecordConfig",
    "StopRule",
    "ViewConfig",
    "Weights",
    "adapt",
    "apply_deltas",
    "difference",
    "load_delta",
    "merge",
    "save_delta",
]

_MODULES = {
    "nada.adaptation": ("AdaptStep", "Adaptation", "adapt"),
    "nada.adaptation_record": ("AdaptationRecord",),
    "nada.config": ("AdaptConfig", "RecordConfig", "StopRule", "ViewConfig", "Weights"),
    "sg3.checkpoints.delta": (
        "Delta", "DeltaMix", "apply_deltas", "difference", "load_delta", "merge", "save_delta",
    ),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nada' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
