"""The renderer: draws a face from attributes, domain, style and pose, deterministically."""

from __future__ import annotations

import numpy as np

from guidance.encoders.mini_vocabulary import DOMAINS, STYLES
from recipes.minifaces.world.attributes import (
    BACKGROUND,
    Attributes,
    Pose,
    sample_attributes,
    sample_pose,
    visible,
)
from recipes.minifaces.world.figures import FIGURES
from recipes.minifaces.world.pen import Pen
from recipes.minifaces.world.styles import STYLE_FILTERS

__all__ = [
    "Attributes",
    "Pose",
    "render",
    "render_seed",
    "sample_attributes",
    "sample_pose",
    "visible",
]


def render(
    attributes: Attributes,
    domain: str = "human",
    style: str = "flat",
    size_px: int = 64,
    pose: Pose | None = None,
) -> np.ndarray:
    """Render an image, uint8 [size_px, size_px, 3]. Equal arguments give equal bytes.

    Args:
        attributes: who is drawn.
        domain: one of `DOMAINS`.
        style: one of `STYLES`.
        size_px: width and height.
        pose: similarity transform of the figure; the background does not move.

    Raises ValueError for an unknown domain or style and sizes outside 16 … 2048.
    """
    if domain not in FIGURES:
        raise ValueError(f"domain: got {domain!r}, expected one of {', '.join(DOMAINS)}")
    if style not in STYLES:
        raise ValueError(f"style: got {style!r}, expected one of {', '.join(STYLES)}")
    if not 16 <= size_px <= 2048:
        raise ValueError(f"size_px: got {size_px}, expected 16 to 2048")
    pen = Pen(
        size_px, 3 if size_px <= 128 else 2, BACKGROUND[attributes.background], pose or Pose()
    )
    FIGURES[domain](pen, attributes)
    image = pen.finish()
    return image if style == "flat" else STYLE_FILTERS[style](image)


def render_seed(
    seed: int, domain: str = "human", style: str = "flat", size_px: int = 64
) -> np.ndarray:
    """Render identity `seed` in the pose of its seed, uint8 [size_px, size_px, 3]."""
    return render(sample_attributes(seed), domain, style, size_px, sample_pose(seed))
