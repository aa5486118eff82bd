"""Image files in a folder (recursive) or a zip, behind one interface, and their decoding.

Input is not trusted: sizes are checked before memory is allocated, and any exception that a
decoder raises for damaged bytes becomes a one-line error that names the file.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import weakref
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

#: Extensions that Pillow can read.
IMAGE_EXTENSIONS = frozenset(Image.registered_extensions())

#: Pillow formats that are decoded: all but EPS, for which Pillow runs Ghostscript.
FORMATS = tuple(name for name in Image.ID if name != "EPS")

MAX_FILE_BYTES = 1 << 30  # largest file, uncompressed


class DamagedImage(ValueError):
    """An image cannot be decoded; the message is the reason alone."""


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
        return zipfile.ZipFile(path if sys.platform == "win32" else _SharedFile(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
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
        names: all files.
        image_names: those with an image extension, sorted.

    Raises ValueError if `path` is neither, cannot be read or contains no images.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        _SOURCES.add(self)
        if self.path.is_dir():
            files = (p for p in self.path.rglob("*") if p.is_file())
            names = [p.relative_to(self.path).as_posix() for p in files]
        elif self.path.is_file() and self.path.suffix.lower() == ".zip":
            self._zip = _open_zip(self.path)
            names = [n for n in self._zip.namelist() if not n.endswith("/")]
        elif not self.path.exists():
            raise ValueError(f"data: {path} does not exist; expected a folder of images or a .zip")
        else:
            raise ValueError(f"data: {path} is neither a folder nor a .zip file")
        self.names = frozenset(names)
        images = {n for n in self.names if Path(n).suffix.lower() in IMAGE_EXTENSIONS}
        self.image_names = sorted(images)
        if not self.image_names:
            raise ValueError(f"data: no image files found in {path}")

    def _size(self, name: str) -> int:
        if self._zip is None:
            return (self.path / name).stat().st_size
        return self._zip.getinfo(name).file_size

    def _open(self, name: str):
        """Open `name` as a seekable binary file. From a zip it yields at most `_size` bytes."""
        if self._zip is None:
            return open(self.path / name, "rb")
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
            raise DamagedImage(_reason(error)) from None

    def decode(self, name: str, shape: tuple[int, int, int] | None = None) -> np.ndarray:
        """Return the image `name` as uint8 `[C, H, W]`.

        Raises DamagedImage if it cannot be decoded, and ValueError, before pixels are decoded, if
        its shape is not `shape`.
        """
        try:
            data = self.read(name)
        except Exception as error:
            raise DamagedImage(_reason(error)) from None
        return decode(data, shape)

    def open_image(self, name: str) -> Image.Image:
        """Return the decoded image `name`. Raises ValueError with its name if it is damaged."""
        try:
            image = Image.open(io.BytesIO(self.read(name)), formats=FORMATS)
            image.load()
        except Exception as error:
            reason = _reason(error)
            raise ValueError(f"data: cannot read image {name} in {self.path}: {reason}") from None
        return image

    def read_index(self) -> dict | None:
        """Return `dataset.json`, or None if there is none (REFERENCE.md §4.11)."""
        if "dataset.json" not in self.names:
            return None
        try:
            index = json.loads(self.read("dataset.json"))
            if not isinstance(index, dict):
                raise ValueError("expected an object with the key 'labels'")
            return index
        except Exception as error:
            reason = _reason(error)
            raise ValueError(f"data: dataset.json in {self.path} is malformed: {reason}") from None

    def read_labels(self) -> dict[str, int | list[float]] | None:
        """Return the labels of `dataset.json` by file name, None without (REFERENCE.md §4.11)."""
        index = self.read_index()
        if index is None:
            return None
        try:
            labels = index["labels"]
            return None if labels is None else {name: label for name, label in labels}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"data: dataset.json in {self.path} is malformed: under 'labels', expected pairs "
                "of a file's name and its label, or null"
            ) from None

    def close(self) -> None:
        """Close the archive."""
        if self._zip is not None:
            self._zip.close()


def _reason(error: Exception) -> str:
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


def array_shape(image: Image.Image) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of `to_array(image)`. Reads no pixels."""
    return {"L": 1, "RGB": 3, "RGBA": 4}[standard_mode(image)], image.height, image.width


def to_array(image: Image.Image) -> np.ndarray:
    """Return an image as uint8 `[C, H, W]`: gray has one channel, palettes become RGB(A).

    Of 16-bit values the upper 8 bits are kept.
    """
    if image.mode.startswith("I"):
        array = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
    else:
        mode = standard_mode(image)
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
        raise DamagedImage(_reason(error)) from None
    if array is None or (shape is not None and found != shape):
        assert shape is not None
        raise ValueError(f"is {shape_text(found)}, expected {shape_text(shape)}")
    return array


def shape_text(shape: tuple[int, int, int]) -> str:
    """`(3, 480, 640)` → `640x480 RGB`."""
    channels, height, width = shape
    return f"{width}x{height} {({1: 'gray', 3: 'RGB', 4: 'RGBA'})[channels]}"
