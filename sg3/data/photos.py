"""Photos of any size, mode and orientation: reading them, cutting out, putting back."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from sg3.data.formats import ItemReader
from sg3.data.transforms import Dropped, to_mode
from sg3.errors import UserError

SMALLEST_PX = 16
#: Share of a crop's larger side over which the result fades into the photo.
FEATHER = 0.08
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Crop:
    """Where in a photo a picture lies: its centre and larger side in pixels of the photo, and by
    how much it is turned, counter-clockwise."""

    x: float
    y: float
    size: float
    degrees: float = 0.0

    def axes(self, picture: Size) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of one pixel to the right and one down of a `picture` of that size."""
        step, angle = self.size / max(picture), math.radians(self.degrees)
        cos, sin = math.cos(angle) * step, math.sin(angle) * step
        return np.array([cos, -sin]), np.array([sin, cos])

    def corners(self, picture: Size) -> np.ndarray:
        """`[4, 2]`, in pixels of the photo."""
        right, down = self.axes(picture)
        signs = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)]) / 2
        offsets = signs[:, :1] * right * picture[0] + signs[:, 1:] * down * picture[1]
        return np.array([self.x, self.y]) + offsets


def read_photo(path: str | os.PathLike) -> Image.Image:
    """The photo in `path`, upright, as 'RGB', or 'RGBA' where parts are transparent.

    Of 16 bits the upper 8 are kept, of an animation the first frame. Raises UserError, one line,
    for what is no picture, is damaged, or has fewer than 16 pixels a side.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"photo: {path} is not a file; expected a picture such as photo.jpg")
    reader = ItemReader(path.parent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what decoders find odd in a picture
            image = ImageOps.exif_transpose(reader.open(path.name)[0])
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


def central_crop(photo: Size, picture: Size) -> Crop:
    """The largest central crop of a photo in the shape of a picture."""
    share = min(photo[0] / picture[0], photo[1] / picture[1])
    return Crop(photo[0] / 2, photo[1] / 2, share * max(picture))


def cut(photo: Image.Image, crop: Crop, picture: Size) -> Image.Image:
    """What lies in `crop`, at the size of the picture (Lanczos), as 'RGB' on white.

    Beyond the border of the photo its last pixels are repeated.
    """
    rgb = to_mode(photo, "RGB")
    low, high = crop.corners(picture).min(axis=0), crop.corners(picture).max(axis=0)
    left, top = (max(0, math.ceil(-v)) for v in low)
    right, bottom = (max(0, math.ceil(v - n)) for v, n in zip(high, rgb.size, strict=True))
    if left or top or right or bottom:
        pixels = np.pad(np.asarray(rgb), [(top, bottom), (left, right), (0, 0)], mode="edge")
        rgb = Image.fromarray(pixels)
    x, y = crop.x + left, crop.y + top
    if not crop.degrees:
        half = np.array(picture) * crop.size / max(picture) / 2
        box = np.clip([x - half[0], y - half[1], x + half[0], y + half[1]], 0, [*rgb.size] * 2)
        return rgb.resize(picture, Image.Resampling.LANCZOS, box=tuple(box))
    # Turned on a grid at least as fine as the photo's, so that shrinking it averages all pixels.
    fine = max(1, math.ceil(crop.size / max(picture)))
    size = (picture[0] * fine, picture[1] * fine)
    across, along = crop.axes(size)
    start = np.array([x, y]) - across * size[0] / 2 - along * size[1] / 2
    affine = (across[0], along[0], start[0], across[1], along[1], start[1])
    turned = rgb.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return turned.resize(picture, Image.Resampling.LANCZOS) if fine > 1 else turned


def to_target(image: Image.Image, channels: int) -> torch.Tensor:
    """A picture as `[1, channels, H, W]` in [−1, 1]."""
    array = np.asarray(to_mode(image, MODES[channels]), dtype=np.float32)
    array = array[:, :, None] if array.ndim == 2 else array
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def put_back(photo: Image.Image, crop: Crop, picture: np.ndarray) -> Image.Image:
    """The photo with `picture` uint8 `[H, W, C]` where `crop` was cut out, fading into it.

    Transparency stays that of the photo. Sides of the crop along the border do not fade.
    """
    shown = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture[:, :, :3])
    shown = shown.convert("RGB")
    if crop.size < max(shown.size):  # shrunk first: an affine map alone would skip pixels
        share = crop.size / max(shown.size)
        size = [max(1, round(n * share)) for n in shown.size]
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    right, down = crop.axes(shown.size)
    matrix = np.linalg.inv(np.stack([right, down], axis=1))
    start = np.array(shown.size) / 2 - matrix @ [crop.x, crop.y]
    affine = (*matrix[0], start[0], *matrix[1], start[1])
    mask = _mask(photo.size, crop, shown.size)

    def warped(image: Image.Image, filter_: Image.Resampling) -> Image.Image:
        return image.transform(photo.size, Image.Transform.AFFINE, affine, filter_)

    result = Image.composite(
        warped(shown, Image.Resampling.BICUBIC),
        photo.convert("RGB"),
        warped(mask, Image.Resampling.BILINEAR),
    )
    if "A" in photo.getbands():
        result.putalpha(photo.getchannel("A"))
    return result


def _mask(photo: Size, crop: Crop, picture: Size) -> Image.Image:
    """1 inside, falling smoothly to 0 at those sides beyond which there is more photo."""
    corners = crop.corners(picture)
    low, high = corners.min(axis=0) > 0.5, corners.max(axis=0) < np.array(photo) - 0.5
    if crop.degrees:
        low[:], high[:] = True, True
    width = FEATHER * max(picture)
    profiles = []
    for n, fades in zip(picture, zip(low, high, strict=True), strict=True):
        inside = np.arange(n) + 0.5
        ends = [gap for gap, fade in zip((inside, n - inside), fades, strict=True) if fade]
        t = np.clip(np.min([np.full(n, width), *ends], axis=0) / width, 0, 1)
        profiles.append(t * t * (3 - 2 * t))
    mask = np.minimum(profiles[1][:, None], profiles[0][None])
    return Image.fromarray(np.broadcast_to(np.rint(255 * mask), picture[::-1]).astype(np.uint8))
