"""StyleGAN3 under Apache-2.0: networks, training, files, command line.

`sg3.load`, `sg3.save` and `sg3.Networks` are found on first use, so that `import sg3` and
`sg3 --help` do not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sg3.checkpoints import Networks
    from sg3.checkpoints.load import load
    from sg3.checkpoints.safetensors_io import save

__version__ = "0.1.0"
__distribution__ = "sg3"  # see sg3.installation
__all__ = ["Networks", "__version__", "load", "save"]


def __getattr__(name: str):
    if name in ("Networks", "load", "save"):
        return getattr(importlib.import_module("sg3.checkpoints"), name)
    raise AttributeError(f"module 'sg3' has no attribute {name!r}")
