"""The one decoder of images: upright, 8 bits per channel, gray, RGB or RGBA.

Every command reads pictures through it, so that all see the same pixels. Input is not trusted:
sizes are checked before memory is allocated, and any exception that a decoder raises for damaged
bytes becomes a one-line error.
"""

from __future__ import annotations

import io
from importlib.util import find_spec

import numpy as np
from PIL import ExifTags, Image

if find_spec("pillow_heif") is not None:
    from pillow_heif import register_heif_opener

    register_heif_opener()  # photos of iPhones

Image.init()  # or formats other than the usual five would be unknown

#: Extensions that Pillow can read.
IMAGE_EXTENSIONS = frozenset(Image.registered_extensions())

#: Pillow formats that are decoded: all but EPS, for which Pillow runs Ghostscript.
FORMATS = tuple(name for name in Image.ID if name != "EPS")

#: Formats whose 16-bit pictures Pillow may open as 32-bit integers.
DEEP_FORMATS = ("PNG", "PPM")

T = Image.Transpose
#: What brings an image of this EXIF orientation upright.
TURNS = {
    2: T.FLIP_LEFT_RIGHT,
    3: T.ROTATE_180,
    4: T.FLIP_TOP_BOTTOM,
    5: T.TRANSPOSE,
    6: T.ROTATE_270,
    7: T.TRANSVERSE,
    8: T.ROTATE_90,
}

#: Where Pillow finds the orientation.
ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")

Size = tuple[int, int]  # width, height in pixels


class DamagedImage(ValueError):
    """An image cannot be used; the message is the reason alone."""


class UnknownRange(DamagedImage):
    """An image holds numbers whose black and white are not known."""


def reason_of(error: Exception) -> str:
    """Return a one-line reason. Re-raises MemoryError, which is not the file's fault.

    Decoders raise any kind of exception for damaged bytes, so callers catch all of them.
    """
    if isinstance(error, MemoryError):
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    return "not an image that can be identified" if "cannot identify image" in text else text[:200]


def standard_mode(image: Image.Image) -> str:
    """Return the mode that `image` is converted to: 'L', 'RGB' or 'RGBA'. Reads no pixels."""
    mode = image.mode
    if mode in ("L", "RGB", "RGBA"):
        return mode
    if mode in ("1", "F", "LA", "La") or mode.startswith("I"):
        return "L"
    return "RGBA" if mode in ("PA", "RGBa") or "transparency" in image.info else "RGB"


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, as far as it is known. Reads no pixels.

    A PNG may store it after its pixels: then it is known once they are loaded.
    """
    try:
        # That of PngImageFile loads the pixels.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # damaged EXIF data does not make the picture unreadable
        reason_of(error)
        return 1
    return value if value in TURNS else 1


def upright_size(image: Image.Image) -> Size:
    """Return (width, height) of `upright(image)` from the header alone."""
    width, height = image.size
    if image.format == "TIFF" or orientation(image) < 5:  # Pillow turns TIFF itself
        return width, height
    return height, width


def array_shape(image: Image.Image) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of `to_array(image)`. Reads no pixels."""
    width, height = upright_size(image)
    return {"L": 1, "RGB": 3, "RGBA": 4}[standard_mode(image)], height, width


def is_deep(image: Image.Image) -> bool:
    """Whether `image` has 16 bits per channel."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in DEEP_FORMATS)


def upright(image: Image.Image, at_least: Size | None = None) -> Image.Image:
    """Decode `image`, turn it as its EXIF orientation says, and reduce it to 8 bits per channel.

    Args:
        image: as `Image.open` returns it.
        at_least: (width, height) that suffices; None: full size. JPEG is decoded at 1/2, 1/4 or
            1/8 of its size if that has at least as many pixels, which takes a fraction of the
            time.

    Of 16-bit values the upper 8 bits are kept; floats from 0 to 1 are scaled by 255, and 32-bit
    integers from 0 to 255 are kept. Raises UnknownRange for others.
    """
    if at_least is not None and image.format in ("JPEG", "MPO"):
        turned = orientation(image) >= 5
        image.draft(None, at_least[::-1] if turned else at_least)
    image.load()
    turn = TURNS.get(orientation(image))
    turn = None if image.format == "TIFF" else turn  # Pillow turns TIFF itself
    image = eight_bits(image)
    if turn is None:
        return image
    image = image.transpose(turn)
    for key in ORIENTATION_KEYS:
        image.info.pop(key, None)
    return image


def eight_bits(image: Image.Image) -> Image.Image:
    """Reduce a loaded image to 8 bits per channel; see `upright`."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if is_deep(image):
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    low, high = values.min(), values.max()
    most = 1 if image.mode == "F" else 255
    if not (low >= 0 and high <= most):  # also NaN
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise UnknownRange(f"{kind} from {low:.6g} to {high:.6g}, expected 0 to {most}")
    return Image.fromarray((values * (255 / most)).round().astype(np.uint8))


def to_array(image: Image.Image) -> np.ndarray:
    """Return an image as uint8 `[C, H, W]`: gray has one channel, palettes become RGB(A)."""
    mode = standard_mode(image)
    image = upright(image)
    array = np.asarray(image if image.mode == mode else image.convert(mode), dtype=np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def decode(data: bytes, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Decode an encoded image to uint8 `[C, H, W]`.

    Raises DamagedImage if it cannot be decoded, and ValueError, before pixels are decoded, if its
    shape is not `shape`.
    """
    array = None
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        found = array_shape(image)
        if shape is None or found == shape:
            array = to_array(image)
            channels, height, width = array.shape  # a header may be wrong about it
            found = channels, height, width
    except Exception as error:
        raise DamagedImage(reason_of(error)) from None
    if array is None or (shape is not None and found != shape):
        assert shape is not None
        raise ValueError(f"is {shape_text(found)}, expected {shape_text(shape)}")
    return array


def shape_text(shape: tuple[int, int, int]) -> str:
    """`(3, 480, 640)` → `640x480 RGB`."""
    channels, height, width = shape
    return f"{width}x{height} {({1: 'gray', 3: 'RGB', 4: 'RGBA'})[channels]}"
