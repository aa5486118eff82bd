"""Reading photos of any format, mode and orientation."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from sg3.data.decoding import upright
from sg3.data.formats import ItemReader
from sg3.data.transforms import Dropped, to_mode
from sg3.errors import UserError

SMALLEST_PX = 16
#: Mode of an image with this number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_photo(path: str | os.PathLike) -> Image.Image:
    """Read a photo, upright, as 'RGB', or as 'RGBA' if it has transparency.

    Reduces deep images as `sg3.data.decoding.upright` does and keeps the first frame of an
    animation. Raises ValueError, in one line, for a file that is not an image, is damaged, or has
    fewer than 16 pixels a side.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"photo: {path} is not a file; expected an image such as photo.jpg")
    reader = ItemReader(path.parent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn about images that they read anyway
            image = upright(reader.open(path.name)[0])
            image = to_mode(image, "RGBA" if image.has_transparency_data else "RGB")
    except Dropped as dropped:
        raise UserError(f"photo: {path}: {dropped.detail}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise UserError(f"photo: {path} cannot be read: {reason[:120]}") from None
    if min(image.size) < SMALLEST_PX:
        raise UserError(
            f"photo: {path} has {image.width}x{image.height} pixels, expected at least "
            f"{SMALLEST_PX} a side"
        )
    return image


def to_target(image: Image.Image, channels: int) -> torch.Tensor:
    """`image` as a tensor `[1, channels, H, W]` in [−1, 1]; 1, 3 or 4 channels."""
    array = np.asarray(to_mode(image, MODES[channels]), dtype=np.float32)
    pixels = rearrange(torch.from_numpy(np.atleast_3d(array).copy()), "h w c -> 1 c h w")
    return pixels / 127.5 - 1
