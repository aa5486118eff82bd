"""StyleGAN3 toolkit: networks, checkpoints, training, metrics and the `sg3` program.

    import sg3

    G = sg3.load("mini-faces").G_ema  # a name, a path or an https URL
    for result in sg3.generate_images(G, seeds=[0, 1, 2], truncation_psi=0.7):
        print(result.name, result.image.shape)  # uint8 [H, W, C]; result.ws [1, num_ws, w_dim]

`load` and `save` read and write network files, `Networks` holds what they contain,
`generate_images` makes images from seeds. The subpackages have the rest: `sg3.networks`,
`sg3.checkpoints`, `sg3.data`, `sg3.training`, `sg3.metrics`, `sg3.analysis`, `sg3.media`.
Steering by text is in `guidance`, adaptation to other domains in `nada`.

PyTorch is imported on first use, so `import sg3` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sg3._version import __version__

if TYPE_CHECKING:
    from sg3.checkpoints.load import load as load
    from sg3.checkpoints.networks import Networks as Networks
    from sg3.checkpoints.safetensors_io import save as save
    from sg3.generate import generate_images as generate_images

__distribution__ = "sg3"  # see sg3.installation
__all__ = ["Networks", "__version__", "generate_images", "load", "save"]

#: Public names and the modules that define them, imported on first use.
_LAZY = {
    "Networks": "sg3.checkpoints",
    "generate_images": "sg3.generate",
    "load": "sg3.checkpoints",
    "save": "sg3.checkpoints",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sg3' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
