"""Load images that define the target of an adaptation."""

from __future__ import annotations

import os

import numpy as np
import torch
from einops import rearrange

from sg3.data.source import ImageSource
from sg3.data.transforms import to_mode, transform_image
from sg3.errors import UserError

MAX_IMAGES = 256


def load_target_images(path: str | os.PathLike, size_px: int) -> torch.Tensor:
    """Load the images of a folder or zip as `[N, 3, size_px, size_px]` in [−1, 1].

    Images are cropped to their central square and resized. Raises ValueError if there are none,
    more than 256, or one that cannot be read.
    """
    try:
        source = ImageSource(os.fspath(path))
        names = source.image_names
        if len(names) > MAX_IMAGES:
            raise ValueError(f"got {len(names)} images in {path}, expected at most {MAX_IMAGES}")
        images = [to_mode(source.open_image(name), "RGB") for name in names]
        source.close()
    except ValueError as error:
        raise UserError(f"target_images: {str(error).removeprefix('data: ')}") from None
    squares = [transform_image(image, "center-crop", (size_px, size_px)) for image in images]
    array = np.stack([np.asarray(square) for square in squares])
    return rearrange(torch.from_numpy(array), "n h w c -> n c h w").contiguous().float() / 127.5 - 1
