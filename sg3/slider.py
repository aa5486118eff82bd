"""Frames of a slider: the same faces while the strength of deltas moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from sg3.checkpoints.delta import Delta, DeltaMix
from sg3.errors import UserError
from sg3.generate import generate_images
from sg3.media import image_grid
from sg3.media.images import enlarge

#: Small pictures are enlarged by whole factors to this side: players blur them otherwise.
PICTURE_SIZE_PX = 192
STRIP_PX = 28


def slider_frames(
    G: nn.Module,
    deltas: Sequence[tuple[Delta, float]],
    strengths: Sequence[float],
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1,
    class_index: int | None = None,
    columns: int | None = None,
    force: bool = False,
) -> Iterator[np.ndarray]:
    """Yield one frame per strength, uint8 [H, W, 3]: a grid of the seeds' pictures over a slider.

    `strengths` multiply the deltas' own. Raises UserError for a delta that does not fit (unless
    `force`, for other weights) and as `generate_images` does, with the first frame.
    """
    if not seeds or not strengths:
        raise UserError("seeds, strengths: got none, expected at least one of each")
    mix = DeltaMix(G, [delta for delta, _ in deltas], force)
    for strength in strengths:
        moved = mix.set(*(strength * own for _, own in deltas))
        options = {"truncation_psi": truncation_psi, "class_index": class_index}
        pictures = np.stack([found.image for found in generate_images(moved, seeds, **options)])
        grid = image_grid(enlarge(pictures, PICTURE_SIZE_PX), columns)
        grid = grid.repeat(3, axis=2) if grid.shape[2] == 1 else grid[:, :, :3]
        yield np.concatenate([grid, _strip(grid.shape[1], strength, strengths)])


def _strip(width: int, strength: float, strengths: Sequence[float]) -> np.ndarray:
    """The slider below the pictures, uint8 [STRIP_PX, width, 3]."""
    low, high = min(strengths), max(strengths)
    share = (strength - low) / (high - low) if high > low else 0.5
    strip = Image.new("RGB", (width, STRIP_PX), "white")
    draw, font, middle = ImageDraw.Draw(strip), ImageFont.load_default(14), STRIP_PX // 2
    left, right = 10, width - 56
    knob = left + share * (right - left)
    draw.line([(left, middle), (right, middle)], fill="#bbbbbb", width=2)
    draw.ellipse([knob - 6, middle - 6, knob + 6, middle + 6], fill="#333333")
    draw.text((right + 10, middle), f"{strength:.2f}", fill="black", font=font, anchor="lm")
    return np.asarray(strip)
