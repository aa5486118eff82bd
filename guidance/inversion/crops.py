"""Crops of a photo: cutting out the network's view, and pasting a result back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sg3.data.transforms import to_mode

#: Fraction of a crop's larger side over which the result fades into the photo.
FEATHER = 0.08

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class PhotoCrop:
    """A rotated rectangle in a photo; its aspect ratio is that of the image cut out of it.

    Attributes:
        x: horizontal centre, in pixels of the photo.
        y: vertical centre, in pixels of the photo.
        size: larger side, in pixels of the photo.
        degrees: rotation, counter-clockwise.
    """

    x: float
    y: float
    size: float
    degrees: float = 0.0

    def axes(self, image: Size) -> tuple[np.ndarray, np.ndarray]:
        """Steps in the photo for one pixel to the right and one down in an image of that size."""
        step, angle = self.size / max(image), math.radians(self.degrees)
        cos, sin = math.cos(angle) * step, math.sin(angle) * step
        return np.array([cos, -sin]), np.array([sin, cos])

    def corners(self, image: Size) -> np.ndarray:
        """Corners `[4, 2]`, in pixels of the photo."""
        right, down = self.axes(image)
        signs = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)]) / 2
        offsets = signs[:, :1] * right * image[0] + signs[:, 1:] * down * image[1]
        return np.array([self.x, self.y]) + offsets


def central_crop(photo: Size, image: Size) -> PhotoCrop:
    """The largest central crop of a photo with the aspect ratio of `image`."""
    scale = min(photo[0] / image[0], photo[1] / image[1])
    return PhotoCrop(photo[0] / 2, photo[1] / 2, scale * max(image))


def cut(photo: Image.Image, crop: PhotoCrop, size: Size) -> Image.Image:
    """Cut `crop` out of `photo` and resize it to `size` (Lanczos), as 'RGB' on white.

    Beyond the border of the photo its last pixels are repeated.
    """
    rgb = to_mode(photo, "RGB")
    low, high = crop.corners(size).min(axis=0), crop.corners(size).max(axis=0)
    left, top = (max(0, math.ceil(-v)) for v in low)
    right, bottom = (max(0, math.ceil(v - n)) for v, n in zip(high, rgb.size, strict=True))
    if left or top or right or bottom:
        pixels = np.pad(np.asarray(rgb), [(top, bottom), (left, right), (0, 0)], mode="edge")
        rgb = Image.fromarray(pixels)
    x, y = crop.x + left, crop.y + top
    if not crop.degrees:
        half = np.array(size) * crop.size / max(size) / 2
        box = np.clip([x - half[0], y - half[1], x + half[0], y + half[1]], 0, [*rgb.size] * 2)
        return rgb.resize(size, Image.Resampling.LANCZOS, box=tuple(box))
    # Rotate onto a grid at least as fine as the photo's, so that shrinking it averages all pixels.
    fine = max(1, math.ceil(crop.size / max(size)))
    grid = (size[0] * fine, size[1] * fine)
    across, along = crop.axes(grid)
    start = np.array([x, y]) - across * grid[0] / 2 - along * grid[1] / 2
    affine = (across[0], along[0], start[0], across[1], along[1], start[1])
    rotated = rgb.transform(grid, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return rotated.resize(size, Image.Resampling.LANCZOS) if fine > 1 else rotated


def put_back(photo: Image.Image, crop: PhotoCrop, image: np.ndarray) -> Image.Image:
    """Paste `image` uint8 `[H, W, C]` where `crop` was cut out, fading into the photo.

    Keeps the photo's transparency. Sides of the crop along the photo's border do not fade.
    """
    pasted = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image[:, :, :3])
    pasted = pasted.convert("RGB")
    if crop.size < max(pasted.size):  # shrink first: an affine map alone would skip pixels
        scale = crop.size / max(pasted.size)
        size = (max(1, round(pasted.width * scale)), max(1, round(pasted.height * scale)))
        pasted = pasted.resize(size, Image.Resampling.LANCZOS)
    right, down = crop.axes(pasted.size)
    matrix = np.linalg.inv(np.stack([right, down], axis=1))
    start = np.array(pasted.size) / 2 - matrix @ [crop.x, crop.y]
    affine = (*matrix[0], start[0], *matrix[1], start[1])
    mask = _mask(photo.size, crop, pasted.size)

    def warped(image: Image.Image, filter_: Image.Resampling) -> Image.Image:
        return image.transform(photo.size, Image.Transform.AFFINE, affine, filter_)

    result = Image.composite(
        warped(pasted, Image.Resampling.BICUBIC),
        photo.convert("RGB"),
        warped(mask, Image.Resampling.BILINEAR),
    )
    if "A" in photo.getbands():
        result.putalpha(photo.getchannel("A"))
    return result


def _mask(photo: Size, crop: PhotoCrop, image: Size) -> Image.Image:
    """255 inside, falling smoothly to 0 at those sides beyond which the photo continues."""
    corners = crop.corners(image)
    low, high = corners.min(axis=0) > 0.5, corners.max(axis=0) < np.array(photo) - 0.5
    if crop.degrees:
        # No side of a rotated crop runs along the border.
        low[:], high[:] = True, True
    width = FEATHER * max(image)
    profiles = []
    for n, fades in zip(image, zip(low, high, strict=True), strict=True):
        inside = np.arange(n) + 0.5
        ends = [gap for gap, fade in zip((inside, n - inside), fades, strict=True) if fade]
        t = np.clip(np.min([np.full(n, width), *ends], axis=0) / width, 0, 1)
        profiles.append(t * t * (3 - 2 * t))
    mask = np.minimum(profiles[1][:, None], profiles[0][None])
    return Image.fromarray(np.broadcast_to(np.rint(255 * mask), image[::-1]).astype(np.uint8))
