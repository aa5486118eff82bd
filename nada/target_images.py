"""A folder of pictures that show what the target looks like."""

from __future__ import annotations

import os

import numpy as np
import torch

from sg3.data.source import ImageSource
from sg3.data.transforms import to_mode, transform_image
from sg3.errors import UserError

MOST = 256


def load_pictures(path: str | os.PathLike, size_px: int) -> torch.Tensor:
    """Pictures of a folder or zip as `[N, 3, size_px, size_px]` in [−1, 1]: the central square,
    resized. Raises UserError if there are none, more than 256, or a damaged one."""
    try:
        source = ImageSource(path)
        names = source.image_names
        if len(names) > MOST:
            raise ValueError(f"{len(names)} pictures in {path}, expected at most {MOST}")
        images = [to_mode(source.open_image(name), "RGB") for name in names]
        source.close()
    except ValueError as error:
        raise UserError(f"target-images: {str(error).removeprefix('data: ')}") from None
    squares = [transform_image(image, "center-crop", (size_px, size_px)) for image in images]
    array = np.stack([np.asarray(square) for square in squares])
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
