"""Load images that define the target of an adaptation."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from einops import rearrange

from sg3.data.source import ImageSource
from sg3.data.transforms import fit_image
from sg3.errors import UserError

MAX_IMAGES = 256


def check_target_images(path: str | os.PathLike) -> None:
    """Raise ValueError if the folder or zip cannot be read, or has no images, or more than 256."""
    try:
        source = ImageSource(os.fspath(path))
        source.close()
        if len(source.image_names) > MAX_IMAGES:
            found = len(source.image_names)
            raise ValueError(f"got {found} images in {path}, expected at most {MAX_IMAGES}")
    except ValueError as error:
        raise UserError(f"target_images: {str(error).removeprefix('data: ')}") from None


def load_target_images(
    path: str | os.PathLike, size_px: int, tell: Callable[[str], object] = lambda note: None
) -> torch.Tensor:
    """Load the images of a folder or zip as `[N, 3, size_px, size_px]` in [−1, 1].

    Images are cropped to their central square and resized. `tell` is called with lines about
    files that are not read. Raises ValueError if there are none that can be read, or more than
    256.
    """
    check_target_images(path)
    try:
        source = ImageSource(os.fspath(path))
        names = source.image_names
        fit = partial(fit_image, mode="RGB", transform="center-crop", size=(size_px, size_px))
        squares, skipped = [], []
        for name in names:
            try:
                squares.append(source.open_image(name, fit))
            except ValueError as error:
                skipped.append(str(error).removeprefix("data: "))
        source.close()
        if not squares:
            raise ValueError(skipped[0])
        for note in source.notes:
            tell(f"{path}: {note}")
        for line in skipped:
            tell(f"skipped: {line}")
    except ValueError as error:
        raise UserError(f"target_images: {str(error).removeprefix('data: ')}") from None
    array = np.stack([np.asarray(square) for square in squares])
    return rearrange(torch.from_numpy(array), "n h w c -> n c h w").contiguous().float() / 127.5 - 1
