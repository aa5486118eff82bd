"""Where image files lie: a folder (recursive) or a zip archive, behind one small interface.

Nothing that is read is trusted: sizes are checked before memory is taken, and whatever a decoder
makes of damaged bytes becomes one line that names the file.
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

#: What is decoded: not EPS, for which Pillow starts Ghostscript.
FORMATS = tuple(name for name in Image.ID if name != "EPS")

MAX_FILE_BYTES = 1 << 30  # of one file, unpacked


class DamagedImage(ValueError):
    """An image that cannot be decoded; the message is the reason alone."""


class _SharedFile(io.RawIOBase):
    """A file whose position lives in this object, so that forked processes do not move it."""

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
        # Windows has no pread, and no fork that would need it.
        return zipfile.ZipFile(path if sys.platform == "win32" else _SharedFile(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ValueError(f"data: {path} is not a readable zip file ({error})") from None


_SOURCES: weakref.WeakSet[ImageSource] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: who held a lock when it was forked off is not there to give it back."""
    for source in _SOURCES:
        source._lock = threading.Lock()
        if source._zip is not None:
            source._zip._lock = threading.RLock()  # its own, which it takes for every read


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class ImageSource:
    """Files of a folder or zip, by relative name. Safe to read from several threads, and from
    processes that are forked off."""

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
        """`name` as a binary file that can seek. An archive gives no more bytes than `_size`."""
        if self._zip is None:
            return open(self.path / name, "rb")
        with self._lock:  # opening counts references, which is not atomic
            return self._zip.open(name)

    def _close(self, file) -> None:
        with self._lock:
            file.close()

    def read(self, name: str) -> bytes:
        """Content of the file `name`. Raises OSError for one of more than 1 GiB."""
        size = self._size(name)
        if size > MAX_FILE_BYTES:
            raise OSError(f"{size} bytes, expected at most {MAX_FILE_BYTES}")
        file = self._open(name)
        try:
            return file.read()
        finally:
            self._close(file)

    def image_shape(self, name: str) -> tuple[int, int, int]:
        """Shape (C, H, W) that `decode` will give, from the header alone.

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
        """The image `name` as uint8 `[C, H, W]`; nothing is unpacked if `shape` is another.

        Raises DamagedImage if it cannot be decoded, ValueError for another shape.
        """
        try:
            data = self.read(name)
        except Exception as error:
            raise DamagedImage(_reason(error)) from None
        return decode(data, shape)

    def open_image(self, name: str) -> Image.Image:
        """The image `name`, decoded. Raises ValueError naming the file if it is damaged."""
        try:
            image = Image.open(io.BytesIO(self.read(name)), formats=FORMATS)
            image.load()
        except Exception as error:
            reason = _reason(error)
            raise ValueError(f"data: cannot read image {name} in {self.path}: {reason}") from None
        return image

    def read_index(self) -> dict | None:
        """Content of `dataset.json`, or None if there is none (REFERENCE.md §4.11)."""
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
        """Labels of `dataset.json` by file name, or None if it has none (REFERENCE.md §4.11)."""
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
        """Release the archive."""
        if self._zip is not None:
            self._zip.close()


def _reason(error: Exception) -> str:
    """One line of what went wrong. Decoders meet hostile bytes with any kind of exception, which
    is why their callers catch all of them; only a lack of memory is not the file's fault."""
    if isinstance(error, MemoryError):
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    return "not an image that can be identified" if "cannot identify image" in text else text[:200]


def standard_mode(image: Image.Image) -> str:
    """What `image` becomes: 'L', 'RGB' or 'RGBA'. Known before the pixels are read."""
    mode = image.mode
    if mode in ("L", "RGB", "RGBA"):
        return mode
    if mode in ("1", "F", "LA", "La") or mode.startswith("I"):
        return "L"
    return "RGBA" if mode in ("PA", "RGBa") or "transparency" in image.info else "RGB"


def array_shape(image: Image.Image) -> tuple[int, int, int]:
    """Shape (C, H, W) of `to_array(image)`."""
    return {"L": 1, "RGB": 3, "RGBA": 4}[standard_mode(image)], image.height, image.width


def to_array(image: Image.Image) -> np.ndarray:
    """An image as uint8 `[C, H, W]`; gray keeps one channel, palettes become RGB(A).

    Of 16 bits the upper 8 are kept.
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
    """The encoded image `data` as uint8 `[C, H, W]`; not unpacked if `shape` is another.

    Raises DamagedImage if it cannot be decoded, ValueError for another shape.
    """
    found = array = None
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        found = array_shape(image)
        if shape is None or found == shape:
            array = to_array(image)
            found = array.shape
    except Exception as error:
        raise DamagedImage(_reason(error)) from None
    if shape is not None and found != shape:
        raise ValueError(f"is {shape_text(found)}, expected {shape_text(shape)}")
    return array


def shape_text(shape: tuple[int, int, int]) -> str:
    """`(3, 480, 640)` → `640x480 RGB`."""
    channels, height, width = shape
    return f"{width}x{height} {({1: 'gray', 3: 'RGB', 4: 'RGBA'})[channels]}"
