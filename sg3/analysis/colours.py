"""The viridis color map, without matplotlib: it colors every frame of layer videos."""

from __future__ import annotations

import numpy as np

#: Viridis (van der Walt and Smith 2015, public domain) at 17 equally spaced points.
VIRIDIS = (
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c "
    "1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725"
)
_STEPS = np.array([list(bytes.fromhex(colour)) for colour in VIRIDIS.split()], np.float64)


def viridis(values: np.ndarray) -> np.ndarray:
    """Map `values` of any shape, 0 (dark) to 1 (bright), clipped, to uint8 `[..., 3]`."""
    position = np.clip(values, 0, 1) * (len(_STEPS) - 1)
    low = np.minimum(position.astype(int), len(_STEPS) - 2)
    weight = (position - low)[..., None]
    return np.rint(_STEPS[low] * (1 - weight) + _STEPS[low + 1] * weight).astype(np.uint8)
