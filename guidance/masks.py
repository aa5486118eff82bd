"""Regions of an image: boxes, and images that are white inside."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sg3.data.decoding import upright
from sg3.errors import UserError

Box = tuple[int, int, int, int]
Region = str | os.PathLike | Box | Image.Image | torch.Tensor


def load_region(region: Region, height: int, width: int) -> torch.Tensor:
    """Load a region as a mask `[1, 1, height, width]` in [0, 1], 1 inside.

    Args:
        region: a box (x0, y0, x1, y1) in pixels, where x1 and y1 are exclusive, or the same as
            text: "8,8,40,24"; an image or its file, white inside (grey counts in part); or a
            tensor `[height, width]`.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises ValueError for another size, a box outside the image, or an empty region.

    Example:
        >>> import guidance
        >>> float(guidance.load_region("8,8,40,24", height=64, width=64).sum())
        512.0
    """
    if isinstance(region, str):
        region = parse_box(region) or Path(region)
    if isinstance(region, tuple):
        mask = _box_mask(region, height, width)
    elif isinstance(region, torch.Tensor):
        mask = region.float()
    else:
        mask = _image_mask(region)
    if mask.ndim != 2 or tuple(mask.shape) != (height, width):
        got = "x".join(map(str, reversed(mask.shape)))
        raise UserError(f"region: got a mask of {got} pixels, expected {width}x{height}")
    if not mask.isfinite().all() or mask.min() < 0 or mask.max() > 1:
        raise UserError("region: got values outside 0 … 1, expected a mask")
    if not (mask > 0).any():
        raise UserError("region: got an empty mask, expected white where the image may change")
    return mask[None, None]


def parse_box(text: str) -> Box | None:
    """`"8,8,40,24"` → (8, 8, 40, 24); None unless the text has four integers."""
    match = re.fullmatch(r"\s*(-?\d+)\s*" + r",\s*(-?\d+)\s*" * 3, text)
    if not match:
        return None
    x0, y0, x1, y1 = map(int, match.groups())
    return x0, y0, x1, y1


def _box_mask(box: Box, height: int, width: int) -> torch.Tensor:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"region: got the box {','.join(map(str, box))}, expected x0,y0,x1,y1 with x0 < x1 and "
            f"y0 < y1 within {width}x{height} pixels"
        )
    mask = torch.zeros([height, width])
    mask[y0:y1, x0:x1] = 1
    return mask


def _image_mask(region: str | os.PathLike | Image.Image) -> torch.Tensor:
    if isinstance(region, Image.Image):
        image = region
    else:
        try:
            with Image.open(region) as opened:
                image = upright(opened)
        except (OSError, ValueError, SyntaxError) as error:
            reason = getattr(error, "strerror", None) or "not a readable image"
            raise UserError(
                f"region: {region}: {reason}; expected a box x0,y0,x1,y1 or an image, white inside"
            ) from None
    return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 255)
