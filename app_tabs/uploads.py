"""Uploaded files: validated before anything else reads them."""

from __future__ import annotations

import hashlib
import io
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from app_tabs.context import Context
from sg3.data.photos import read_photo
from sg3.files import prepare_folder

MAX_BYTES, MAX_PIXELS = 20_000_000, 40_000_000
MAX_TENSORS_BYTES = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def check_image(path: str | Path) -> None:
    """Raise ValueError unless the file is an image of acceptable size; reads its header only."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"image: {path.name} has {size / 1e6:.0f} MB, expected at most "
            f"{MAX_BYTES / 1e6:.0f} MB; make it smaller"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which are checked below
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"image: cannot read {path.name}, expected PNG, JPEG or WebP") from None
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"image: {path.name} has {width}x{height} pixels, expected at most "
            f"{MAX_PIXELS / 1e6:.0f} million; make it smaller"
        )


def keep(context: Context, *paths: str) -> list[str]:
    """Copy uploads to one folder in `outdir`, so that the equivalent command can name them.

    On a public page nothing is copied, and the names of the files are returned.
    """
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number:03d}-{name}" for number, name in enumerate(names)]
    if context.public:
        return names
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12]
    folder = prepare_folder(context.outdir / "uploads" / digest)
    for path, name in zip(paths, names, strict=True):
        if not (folder / name).exists():
            shutil.copyfile(path, folder / name)
    return [str(folder / name) for name in names]


def keep_image(context: Context, image: Image.Image, name: str) -> str:
    """Write an image that was painted in the page, like `keep`."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    if context.public:
        return name
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:12]
    path = prepare_folder(context.outdir / "uploads" / digest) / name
    if not path.exists():
        path.write_bytes(buffer.getvalue())
    return str(path)


def photo(path: str | None) -> Image.Image:
    """Read an uploaded photo. Raises ValueError if there is none or it is not an image."""
    if not path:
        raise ValueError("photo: got none; choose a file first")
    check_image(path)
    return read_photo(path)


def images(paths: Sequence[str] | None, folder: Path) -> Path | None:
    """Copy uploaded images into a new `folder`; return None if there are none."""
    if not paths:
        return None
    for path in paths:
        check_image(path)
    folder.mkdir()
    for number, path in enumerate(paths):
        shutil.copyfile(path, folder / f"{number:03d}{Path(path).suffix.lower()}")
    return folder


def tensors(path: str | None, what: str) -> Path:
    """Return the path of an uploaded safetensors file.

    Raises ValueError if there is none, or if it has another suffix or more than 64 MB.
    """
    if not path:
        raise ValueError(f"{what}: got none; choose a file first")
    found = Path(path)
    if found.suffix != ".safetensors":
        raise ValueError(f"{what}: got {found.name}, expected a .safetensors file")
    if found.stat().st_size > MAX_TENSORS_BYTES:
        raise ValueError(f"{what}: {found.name} is too large, expected at most 64 MB")
    return found
