"""Crop, resize and convert images for a dataset (REFERENCE.md §4.12)."""

from __future__ import annotations

import math

from PIL import Image

from sg3.data.decoding import Size, eight_bits, upright, upright_size
from sg3.networks.sizes import ImageSize, num_halvings

TRANSFORMS = ("none", "center-crop", "center-crop-wide", "center-crop-tall")
MAX_SIDE = 16384  # pixels
#: JPEG is decoded at a fraction of its size that keeps at least this many pixels per side for each
#: of the result: the filter then hardly sees the difference.
REDUCING_GAP = 2


class Dropped(Exception):
    """An image is dropped: `reason` in a word or two, which is counted, and a `detail`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def check_size(height: int, width: int) -> None:
    """Raise ValueError unless networks support images of this size.

    Squares must be powers of two. Of other sizes both sides must be divisible by two until the
    larger is at most 16 pixels: 1024x576 and 256x192 are, 100x60 is not (`sg3.networks.sizes`).
    """
    try:
        if min(height, width) < 1 or max(height, width) > MAX_SIDE:
            raise ValueError
        num_halvings(ImageSize(height, width))
    except ValueError:
        raise ValueError(
            f"resolution: got {width}x{height} pixels, which no network supports; expected a power "
            "of two for squares, sides that halve together like 1024x576 or 256x192 for others, "
            f"and at most {MAX_SIDE}"
        ) from None


def output_size(transform: str, size: Size | None) -> Size | None:
    """Return the (width, height) that `transform` produces; None: that of each image.

    Raises ValueError for an unknown `transform`, a `size` that does not suit it, or a result that
    no network supports.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"transform: got {transform!r}, expected one of {', '.join(TRANSFORMS)}")
    if size is None:
        if transform != "none":
            raise ValueError(f"resolution: got none, expected a size for `transform` {transform}")
        return None
    width, height = size
    if transform == "center-crop-wide" and width < height:
        raise ValueError(f"resolution: got {width}x{height}, expected width at least height")
    if transform == "center-crop-tall" and height < width:
        raise ValueError(f"resolution: got {width}x{height}, expected height at least width")
    if transform in ("center-crop-wide", "center-crop-tall"):
        width = height = max(size)
    check_size(height, width)
    return width, height


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert `image` to `mode`: 'L', 'RGB' or 'RGBA'.

    Without an alpha channel, transparent images are composited on white. For deep images see
    `sg3.data.decoding.upright`.
    """
    image = eight_bits(image)
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def transform_image(image: Image.Image, transform: str, size: Size | None) -> Image.Image:
    """Crop `image` and resize it (Lanczos) to `size`.

    Args:
        image: mode 'L', 'RGB' or 'RGBA'.
        transform: 'none' only resizes. 'center-crop' keeps the largest central part with the
            aspect ratio of `size`. 'center-crop-wide' keeps the full width at that aspect ratio
            and pads the result to a black square; 'center-crop-tall' keeps the full height.
        size: (width, height) in pixels. None: unchanged.

    The last two transforms raise Dropped for images that would be enlarged or do not fill `size`.
    """
    if size is not None:
        _check_reach(image.size, size, transform)
    return _resized(image, transform, size)


def fit_image(image: Image.Image, mode: str, transform: str, size: Size | None) -> Image.Image:
    """Decode `image`, as `Image.open` returns it, turn it upright, convert, crop and resize it.

    JPEG is decoded no larger than the result needs. Arguments and errors are those of `to_mode`
    and `transform_image`.
    """
    if size is None:
        return to_mode(upright(image), mode)
    full = upright_size(image)
    _check_reach(full, size, transform)
    image = to_mode(upright(image, _sufficient(full, transform, size)), mode)
    return _resized(image, transform, size)


def _sufficient(full: Size, transform: str, size: Size) -> Size:
    """Return the size to which an image of `full` size may be reduced before it is transformed."""
    left, top, right, bottom = (0, 0, *full) if transform == "none" else _central_box(full, size)
    factor = max(min((right - left) / size[0], (bottom - top) / size[1]) / REDUCING_GAP, 1)
    return math.ceil(full[0] / factor), math.ceil(full[1] / factor)


def _resized(image: Image.Image, transform: str, size: Size | None) -> Image.Image:
    if size is None:
        return image
    if transform == "none":
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
    image = image.crop(_central_box(image.size, size)).resize(size, Image.Resampling.LANCZOS)
    if transform == "center-crop":
        return image
    side = max(size)
    canvas = Image.new(image.mode, (side, side))
    canvas.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


def _central_box(image: Size, shape: Size) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the largest central part with the aspect of `shape`."""
    width, height = image
    # Aspect ratios, compared as integers: no rounding for equal ones.
    if width * shape[1] > height * shape[0]:
        width = max(round(height * shape[0] / shape[1]), 1)
    else:
        height = max(round(width * shape[1] / shape[0]), 1)
    left, top = (image[0] - width) // 2, (image[1] - height) // 2
    return left, top, left + width, top + height


def _check_reach(image: Size, size: Size, transform: str) -> None:
    """Raise Dropped if the side kept in full would be enlarged or the other would not fill `size`.

    The rule is that of REFERENCE.md §4.12. The crop differs: it keeps the aspect ratio of the
    image, which the official one changes.
    """
    if transform not in ("center-crop-wide", "center-crop-tall"):
        return
    kept, cut = (0, 1) if transform == "center-crop-wide" else (1, 0)
    found, wanted = "x".join(map(str, image)), "x".join(map(str, size))
    if image[kept] < size[kept]:
        raise Dropped("too small", f"{found} pixels, expected at least {wanted}")
    if round(size[kept] * image[cut] / image[kept]) < size[cut]:
        shape = "flatter" if kept == 0 else "narrower"
        raise Dropped("wrong shape", f"{found} pixels, {shape} than {wanted}")
