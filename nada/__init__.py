"""Text-driven domain adaptation of a generator (StyleGAN-NADA).

Names are resolved on first use, so that `import nada` does not import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sg3.installation import check_packages

check_packages("ops_cuda", "guidance", "nada")

from guidance.lazy import lazy_names  # noqa: E402

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "nada.adaptation": ["AdaptStep", "Adaptation", "adapt"],
        "nada.adaptation_record": ["AdaptationRecord"],
        "nada.config": ["AdaptConfig", "RecordConfig", "StopRule", "ViewConfig", "Weights"],
        "sg3.checkpoints.delta": [
            "Delta",
            "DeltaMix",
            "apply_deltas",
            "difference",
            "load_delta",
            "merge",
            "save_delta",
        ],
    },
)
