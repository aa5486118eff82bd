"""Image files in a folder (recursive) or a zip, behind one interface."""

from __future__ import annotations

import io
import os
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sg3.data.decoding import (
    FORMATS,
    IMAGE_EXTENSIONS,
    DamagedImage,
    array_shape,
    decode,
    reason_of,
    upright,
)
from sg3.data.listing import Listing, canonical, list_folder, list_zip, suffix
from sg3.files import parse_json
from sg3.zip_files import check_entry, open_zip

INDEX = "dataset.json"
MAX_FILE_BYTES = 1 << 30  # largest file, uncompressed


class _SharedFile(io.RawIOBase):
    """A file read with `pread`: its position is not shared with forked processes."""

    def __init__(self, path: Path):
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._size = os.fstat(self._file.fileno()).st_size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(f"seek before the start: {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        data = os.pread(self._file.fileno(), len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        # Windows has neither pread nor fork.
        return open_zip(path if sys.platform == "win32" else _SharedFile(path))
    except (ValueError, OSError) as error:
        raise ValueError(f"data: {path} is not a readable zip file ({error})") from None


_SOURCES: weakref.WeakSet[ImageSource] = weakref.WeakSet()


def _renew_locks() -> None:
    """Replace locks after a fork: the thread that held one does not exist in the child."""
    for source in _SOURCES:
        source._lock = threading.Lock()
        if source._zip is not None:
            source._zip._lock = threading.RLock()  # type: ignore[attr-defined]  # used by every read


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class ImageSource:
    """Files of a folder or zip by relative name. Safe to use from threads and forked processes.

    Attributes:
        names: all files, without hidden ones and what operating systems leave behind.
        image_names: those with an image extension, sorted.
        notes: one line for each kind of file that is not read.

    Raises ValueError if `path` is neither, cannot be read or contains no images.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        _SOURCES.add(self)
        if self.path.is_dir():
            listing = self._listed_folder()
        elif self.path.is_file() and self.path.suffix.lower() == ".zip":
            self._zip = _open_zip(self.path)
            listing = list_zip(self._zip)
        elif not self.path.exists():
            raise ValueError(f"data: {path} does not exist; expected a folder of images or a .zip")
        else:
            raise ValueError(f"data: {path} is neither a folder nor a .zip file")
        self.names = frozenset(listing.names)
        self.image_names = [n for n in listing.names if suffix(n) in IMAGE_EXTENSIONS]
        self.index_name = self._find_index()
        read = {*self.image_names, self.index_name}
        self.notes = listing.notes(read)
        if not self.image_names:
            why = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise ValueError(f"data: no image files found in {path}{why}")

    def _listed_folder(self) -> Listing:
        try:
            return list_folder(self.path)
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"data: cannot open folder {self.path}: {reason}") from None

    def _find_index(self) -> str | None:
        """Return the name of `dataset.json`: it may lie in a folder that holds all images."""
        found = [n for n in self.names if n.endswith(INDEX) and _last_part(n) == INDEX]
        if not found:
            return None
        name = min(found, key=lambda n: (canonical(n).count("/"), n))
        folder = canonical(name).removesuffix(INDEX)
        inside = all(canonical(n).startswith(folder) for n in self.image_names)
        return name if inside else None

    def _size(self, name: str) -> int:
        if self._zip is None:
            return (self.path / name).stat().st_size
        return self._zip.getinfo(name).file_size

    def _open(self, name: str):
        """Open `name` as a seekable binary file. From a zip it yields at most `_size` bytes."""
        if self._zip is None:
            return open(self.path / name, "rb")
        check_entry(self._zip, self._zip.getinfo(name))
        with self._lock:  # ZipFile's reference count is not atomic
            return self._zip.open(name)

    def _close(self, file) -> None:
        with self._lock:
            file.close()

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises OSError if it is larger than 1 GiB."""
        size = self._size(name)
        if size > MAX_FILE_BYTES:
            raise OSError(f"{size} bytes, expected at most {MAX_FILE_BYTES}")
        file = self._open(name)
        try:
            return file.read()
        finally:
            self._close(file)

    def image_shape(self, name: str) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of `decode(name)` from the header alone.

        Raises DamagedImage if the header cannot be read.
        """
        try:
            file = self._open(name)
            try:
                with Image.open(file, formats=FORMATS) as image:
                    return array_shape(image)
            finally:
                self._close(file)
        except Exception as error:
            raise DamagedImage(reason_of(error)) from None

    def decode(self, name: str, shape: tuple[int, int, int] | None = None) -> np.ndarray:
        """Return the image `name` as uint8 `[C, H, W]`.

        Raises DamagedImage if it cannot be decoded, and ValueError, before pixels are decoded, if
        its shape is not `shape`.
        """
        try:
            data = self.read(name)
        except Exception as error:
            raise DamagedImage(reason_of(error)) from None
        return decode(data, shape)

    def open_image(
        self, name: str, fit: Callable[[Image.Image], Image.Image] = upright
    ) -> Image.Image:
        """Return the image `name`, decoded by `fit`. Raises ValueError with its name if damaged."""
        try:
            return fit(Image.open(io.BytesIO(self.read(name)), formats=FORMATS))
        except Exception as error:
            reason = reason_of(error)
            raise ValueError(f"data: cannot read image {name} in {self.path}: {reason}") from None

    def read_index(self) -> dict | None:
        """Return `dataset.json`, or None if there is none (REFERENCE.md §4.11)."""
        if self.index_name is None:
            return None
        try:
            index = parse_json(self.read(self.index_name))
            if not isinstance(index, dict):
                raise ValueError("expected an object with the key 'labels'")
            return index
        except Exception as error:
            reason = reason_of(error)
            raise ValueError(f"data: dataset.json in {self.path} is malformed: {reason}") from None

    def close(self) -> None:
        """Close the archive."""
        if self._zip is not None:
            self._zip.close()


def _last_part(name: str) -> str:
    return canonical(name).rpartition("/")[2]
