"""Encode images and write them to a zip or folder that appears once it is complete."""

from __future__ import annotations

import io
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from sg3.errors import UserError
from sg3.files import atomic_path

IMAGE_FORMATS = ("png", "webp")
DATE = (1980, 1, 1, 0, 0, 0)  # of every zip entry, so that equal images give equal zips

Write = Callable[[str, bytes], None]


def encode(image: Image.Image, image_format: str) -> bytes:
    """Encode `image` losslessly: uncompressed PNG, fastest to read, or WebP, smaller."""
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, format="png", compress_level=0)
    else:
        # A fifth of the time of the default settings for at most 6 % more bytes.
        image.save(buffer, format="webp", lossless=True, method=2, quality=25)
    return buffer.getvalue()


def check_dest(source: Path, dest: Path, overwrite: bool = False) -> None:
    """Raise ValueError unless a dataset can be written to `dest`.

    A zip that exists is replaced only with `overwrite`.
    """
    if dest.suffix.lower() == ".zip":
        if dest.is_dir():
            raise ValueError(f"dest: {dest} is a folder; expected a new name")
        if dest.exists() and source.exists() and dest.samefile(source):
            raise ValueError(f"dest: {dest} is the source itself; expected a different name")
        if dest.exists() and not overwrite:
            raise ValueError(f"dest: {dest} exists; `overwrite` replaces it, or choose a new name")
    elif dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise ValueError(f"dest: {dest} is not empty; expected a new folder or a .zip")


@contextmanager
def dataset_writer(dest: Path) -> Iterator[Write]:
    """Context manager: a function (name, bytes) that writes to a zip or a folder.

    `dest` appears when the block succeeds; otherwise nothing of it is left. Raises UserError if
    it cannot be written.
    """
    target = _new_zip if dest.suffix.lower() == ".zip" else _new_folder
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with target(dest) as write:
            yield write
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"dest: cannot write {dest}: {reason}; nothing was written") from None


@contextmanager
def _new_zip(dest: Path) -> Iterator[Write]:
    with atomic_path(dest) as temporary, zipfile.ZipFile(temporary, "w") as archive:

        def write(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system = 3  # Unix on every platform: the same bytes everywhere
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_STORED)

        yield write


@contextmanager
def _new_folder(dest: Path) -> Iterator[Write]:
    # Next to `dest`, because renaming works only within one file system.
    temporary = dest.parent / f".tmp-{dest.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()

    def write(name: str, data: bytes) -> None:
        path = temporary / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    try:
        yield write
        if dest.exists():
            dest.rmdir()  # empty; Windows cannot rename onto an existing folder
        os.replace(temporary, dest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
