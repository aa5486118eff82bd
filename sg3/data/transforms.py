"""Pictures of any kind and shape become pictures of one kind and one shape (REFERENCE.md §4.12)."""

from __future__ import annotations

from PIL import Image

from sg3.data.source import to_array
from sg3.networks.sizes import ImageSize, num_halvings

TRANSFORMS = ("none", "center-crop", "center-crop-wide", "center-crop-tall")
MAX_SIDE = 16384  # pixels

Size = tuple[int, int]  # width, height in pixels


class Dropped(Exception):
    """A picture is left out: `reason` in two words, which are counted, and a `detail`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def check_size(height: int, width: int) -> None:
    """Raise ValueError unless networks take images of this size.

    Squares are powers of two. Other sizes must halve, both sides together, until the larger is
    at most 16 pixels: 1024x576 and 256x192 do, 100x60 does not (`sg3.networks.sizes`).
    """
    try:
        if min(height, width) < 1 or max(height, width) > MAX_SIDE:
            raise ValueError
        num_halvings(ImageSize(height, width))
    except ValueError:
        raise ValueError(
            f"--resolution: got {width}x{height} pixels, which no network takes; expected a power "
            "of two for squares, sides that halve together like 1024x576 or 256x192 for others, "
            f"and at most {MAX_SIDE}"
        ) from None


def output_size(transform: str, size: Size | None) -> Size | None:
    """(width, height) that `transform` gives; None: that of the picture.

    Raises ValueError unless `transform` is known and goes with `size`, and networks take what
    comes out.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"--transform: got {transform!r}, expected one of {', '.join(TRANSFORMS)}")
    if size is None:
        if transform != "none":
            raise ValueError(f"--resolution: missing, expected WxH for --transform {transform}")
        return None
    width, height = size
    if transform == "center-crop-wide" and width < height:
        raise ValueError(f"--resolution: got {width}x{height}, expected it to be wide")
    if transform == "center-crop-tall" and height < width:
        raise ValueError(f"--resolution: got {width}x{height}, expected it to be tall")
    if transform in ("center-crop-wide", "center-crop-tall"):
        width = height = max(size)
    check_size(height, width)
    return width, height


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image` as 'L', 'RGB' or 'RGBA'.

    Where there is no place for transparency, the picture lies on white. Of 16 bits the upper 8
    are kept.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray(to_array(image)[0])
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def transform_image(image: Image.Image, transform: str, size: Size | None) -> Image.Image:
    """`image` ('L', 'RGB' or 'RGBA'), cropped and resized (Lanczos) to `size` = (width, height).

    'none' only resizes. 'center-crop' keeps the largest central part of the shape of `size`.
    'center-crop-wide' keeps the full width, at the shape of `size`, and centres the result on a
    black square; 'center-crop-tall' does so with the full height. These two raise Dropped for
    pictures that would be enlarged or do not reach from edge to edge.
    """
    if size is None:
        return image
    if transform == "none":
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
    if transform != "center-crop":
        _check_reach(image.size, size, transform)
    image = image.crop(_central_box(image.size, size)).resize(size, Image.Resampling.LANCZOS)
    if transform == "center-crop":
        return image
    side = max(size)
    canvas = Image.new(image.mode, (side, side))
    canvas.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


def _central_box(image: Size, shape: Size) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the largest central part with the aspect of `shape`."""
    width, height = image
    if width * shape[1] > height * shape[0]:
        width = max(round(height * shape[0] / shape[1]), 1)
    else:
        height = max(round(width * shape[1] / shape[0]), 1)
    left, top = (image[0] - width) // 2, (image[1] - height) // 2
    return left, top, left + width, top + height


def _check_reach(image: Size, size: Size, transform: str) -> None:
    """The side that is kept in full must not be enlarged, the other one must fill `size`.

    The rule is that of REFERENCE.md §4.12, whose crop would then distort the picture; ours does not.
    """
    kept, cut = (0, 1) if transform == "center-crop-wide" else (1, 0)
    found, wanted = "x".join(map(str, image)), "x".join(map(str, size))
    if image[kept] < size[kept]:
        raise Dropped("too small", f"{found} pixels, {wanted} are wanted")
    if round(size[kept] * image[cut] / image[kept]) < size[cut]:
        shape = "flatter" if kept == 0 else "narrower"
        raise Dropped("wrong shape", f"{found} pixels is {shape} than {wanted}")
