"""Video frames of the same seeds while the strength of deltas changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sg3.checkpoints.delta import Delta, DeltaMix
from sg3.errors import UserError
from sg3.generate import generate_images
from sg3.media import image_grid
from sg3.media.images import enlarge
from sg3.networks.generator import MappedGenerator
from sg3.settings import ClassLabel

#: Smaller images are enlarged by whole factors to this size; players would blur them.
MIN_SIZE_PX = 192
STRIP_PX = 28  # height of the slider below the images


def slider_frames(
    G: MappedGenerator,
    deltas: Sequence[tuple[Delta, float]],
    strengths: Sequence[float],
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1,
    class_index: ClassLabel | None = None,
    columns: int | None = None,
    force: bool = False,
) -> Iterator[np.ndarray]:
    """Yield one frame per strength, uint8 `[H, W, 3]`: a grid of the seeds' images above a slider.

    Args:
        G: the generator that the deltas were made from.
        deltas: deltas and their strengths.
        strengths: factors of all strengths, one per frame.
        seeds: the images of the grid.
        truncation_psi: truncation.
        class_index: class label; required by conditional networks.
        columns: images per row; None: the square root of their number, rounded up.
        force: accept deltas that were made from other weights of the same shapes.

    Raises ValueError with the first frame for a delta that does not fit and for bad arguments.
    """
    if not seeds or not strengths:
        raise UserError("seeds, strengths: got none, expected at least one of each")
    mix = DeltaMix(G, [delta for delta, _ in deltas], force)
    for strength in strengths:
        moved: Any = mix.set(*(strength * own for _, own in deltas))
        results = generate_images(
            moved, seeds, truncation_psi=truncation_psi, class_index=class_index
        )
        images = np.stack([result.image for result in results])
        grid = image_grid(enlarge(images, MIN_SIZE_PX), columns)
        grid = grid.repeat(3, axis=2) if grid.shape[2] == 1 else grid[:, :, :3]
        yield np.concatenate([grid, _strip(grid.shape[1], strength, strengths)])


def _strip(width: int, strength: float, strengths: Sequence[float]) -> np.ndarray:
    """Draw the slider, uint8 `[STRIP_PX, width, 3]`."""
    low, high = min(strengths), max(strengths)
    fraction = (strength - low) / (high - low) if high > low else 0.5
    strip = Image.new("RGB", (width, STRIP_PX), "white")
    draw, font, middle = ImageDraw.Draw(strip), ImageFont.load_default(14), STRIP_PX // 2
    left, right = 10, width - 56
    knob = left + fraction * (right - left)
    draw.line([(left, middle), (right, middle)], fill="#bbbbbb", width=2)
    draw.ellipse([knob - 6, middle - 6, knob + 6, middle + 6], fill="#333333")
    draw.text((right + 10, middle), f"{strength:.2f}", fill="black", font=font, anchor="lm")
    return np.asarray(strip)
