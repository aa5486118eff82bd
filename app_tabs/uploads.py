"""Files that visitors bring: looked at before anything else reads them."""

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

MOST_BYTES, MOST_PIXELS = 20_000_000, 40_000_000
MOST_TENSORS_BYTES = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def check_picture(path: str | Path) -> None:
    """Raise ValueError unless the file is a picture of a sensible size; reads its head only."""
    path = Path(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"picture: {path.name} has {size / 1e6:.0f} MB, expected at most "
            f"{MOST_BYTES / 1e6:.0f} MB; make it smaller"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures: judged here
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(
            f"picture: {path.name} is no picture that can be read; expected PNG, JPEG or WebP"
        ) from None
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"picture: {path.name} has {width}x{height} pixels, expected at most "
            f"{MOST_PIXELS / 1e6:.0f} million; make it smaller"
        )


def keep(context: Context, *paths: str) -> list[str]:
    """Copies of uploads beside the results, which commands can name; all in one folder.

    On a page that others can reach only the files' own names: nothing is copied there.
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


def keep_picture(context: Context, image: Image.Image, name: str) -> str:
    """The same for a picture that was painted in the page."""
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
    """The photo in an uploaded file. Raises ValueError for none, or what is no such picture."""
    if not path:
        raise ValueError("photo: got none; choose a file first")
    check_picture(path)
    return read_photo(path)


def pictures(paths: Sequence[str] | None, folder: Path) -> Path | None:
    """Copy uploaded pictures, each of which is one, into `folder`; None if there are none."""
    if not paths:
        return None
    for path in paths:
        check_picture(path)
    folder.mkdir()
    for number, path in enumerate(paths):
        shutil.copyfile(path, folder / f"{number:03d}{Path(path).suffix.lower()}")
    return folder


def tensors(path: str | None, what: str) -> Path:
    """An uploaded safetensors file of a sensible size. Raises ValueError otherwise."""
    if not path:
        raise ValueError(f"{what}: got none; choose a file first")
    found = Path(path)
    if found.suffix != ".safetensors":
        raise ValueError(f"{what}: got {found.name}, expected a .safetensors file")
    if found.stat().st_size > MOST_TENSORS_BYTES:
        raise ValueError(f"{what}: {found.name} is too large, expected at most 64 MB")
    return found
