"""Formats that `sg3 dataset` reads: folder, zip, CIFAR-10, MNIST, datasets (REFERENCE.md §4.12).

`open_source` lists the images of a source in one process; an `ItemReader`, which can be sent to
worker processes, opens them.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sg3.data.cifar import read_cifar
from sg3.data.decoding import FORMATS, UnknownRange, reason_of
from sg3.data.labels import Label, given_labels
from sg3.data.source import ImageSource
from sg3.data.transforms import Dropped
from sg3.errors import UserError
from sg3.zip_files import check_entry, open_zip

MAX_BYTES = 512 << 20  # largest file, uncompressed
MAX_PIXELS = 178_956_970  # largest image; Pillow itself refuses more
MAX_RATIO = 1000  # highest compression ratio of files above 1 MiB
CIFAR = "cifar-10-python.tar.gz"
MNIST = "-images-idx3-ubyte.gz"

Item = str | bytes | np.ndarray


@dataclass(frozen=True)
class SourceImages:
    """List of the images of a source.

    Attributes:
        path: the source.
        names: one name per image, for messages.
        items: what `ItemReader.open` takes, one per image: a file name, an encoded image or
            pixels uint8 `[H, W]` or `[H, W, C]`.
        labels: labels that came with the source, if any; None for images without one.
        classes: class names, if known.
        notes: lines about what is left out.
        files: all files that were listed.
    """

    path: Path
    names: Sequence[str]
    items: Sequence[Item] | np.ndarray
    labels: Sequence[Label | None] | None = None
    classes: list[str] | None = None
    notes: Sequence[str] = ()
    files: Collection[str] = ()

    @property
    def has_files(self) -> bool:
        """Whether `names` are file names."""
        return self.items is self.names


def open_source(path: str | Path, use_labels: bool = True) -> SourceImages:
    """List the images at `path`, and their labels if `use_labels`.

    Raises ValueError if it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"source: {path} does not exist")
    if path.is_dir():
        if path.name.endswith("_lmdb") or (path / "data.mdb").exists():
            raise ValueError(
                f"source: {path} is an LMDB, which is not supported; export each of its values to "
                "a file (pip install lmdb) and pass that folder"
            )
        if _is_saved_dataset(path):
            return _open_saved_dataset(path)
    elif path.is_file() and path.name.endswith(CIFAR):
        with _damage_named(path, "CIFAR-10 archive"):
            images, labels, classes = read_cifar(path)
        return SourceImages(path, _numbered(path, len(images)), images, labels, classes)
    elif path.is_file() and path.name.endswith(MNIST):
        return _open_mnist(path)
    elif path.suffix.lower() != ".zip":
        raise UserError(
            f"source: got {path}, expected a folder of images, a .zip, {CIFAR} or MNIST's *{MNIST}"
        )
    return _open_files(path, use_labels)


@contextmanager
def _damage_named(path: Path, what: str) -> Iterator[None]:
    """Turn any exception, as decoders raise for damaged or hostile bytes, into ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"source: {path} is not a readable {what}: {reason_of(error)}") from None


def _numbered(path: Path, count: int) -> list[str]:
    return [f"{path.name}[{i}]" for i in range(count)]


def _open_files(path: Path, use_labels: bool) -> SourceImages:
    try:
        files = ImageSource(path)
        try:
            given = given_labels(files, files.image_names) if use_labels else None
        finally:
            files.close()
    except ValueError as error:  # in training, the same argument is called `data`
        message = str(error).removeprefix("data: ")
        raise UserError(f"source: {message}") from None
    names, notes = files.image_names, files.notes
    if given is None:
        return SourceImages(path, names, names, notes=notes, files=files.names)
    return SourceImages(
        path, names, names, given.values, given.classes, notes + given.notes, files.names
    )


# MNIST ---------------------------------------------------------------------------------------


def _open_mnist(path: Path) -> SourceImages:
    with _damage_named(path, "MNIST file"):
        images = _read_idx(path, 3)
        if images.shape[1:] != (28, 28):
            raise ValueError(f"images of {images.shape[2]}x{images.shape[1]}, expected 28x28")
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))  # 32x32: networks need a power of two
    other = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    labels = None
    if other.is_file():
        with _damage_named(other, "MNIST file"):
            labels = _read_idx(other, 1).tolist()
            if len(labels) != len(images):
                raise ValueError(f"{len(labels)} labels for {len(images)} images")
    return SourceImages(path, _numbered(path, len(images)), images, labels)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of uint8: magic number, one size per dimension, data."""
    with gzip.open(path) as file:
        header = file.read(4 * (1 + dimensions))
        magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
        size = math.prod(shape)
        if magic != 0x800 + dimensions or not 0 < size <= MAX_BYTES:
            raise ValueError(f"unknown header {header.hex()}")
        return np.frombuffer(file.read(size), np.uint8).reshape(shape)


# Hugging Face --------------------------------------------------------------------------------


class _Encoded(Sequence[bytes]):
    """A column of encoded images."""

    def __init__(self, table: Any, column: str):
        self._table, self._column = table, column

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        # A row may hold a path instead of bytes. It could point anywhere on this machine, so it
        # is not followed: the row counts as damaged.
        return (self._table[index][self._column] or {}).get("bytes") or b""


def _is_saved_dataset(path: Path) -> bool:
    whole = (path / "state.json").exists() and (path / "dataset_info.json").exists()
    return whole or (path / "dataset_dict.json").exists()


def _open_saved_dataset(path: Path) -> SourceImages:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"source: {path} was saved by the datasets package; install it with: "
            "pip install datasets"
        ) from None
    with _damage_named(path, "folder of the datasets package"):
        table = datasets.load_from_disk(str(path))
    if isinstance(table, datasets.DatasetDict):
        if "train" not in table and len(table) != 1:
            raise ValueError(
                f"source: {path} has the splits {', '.join(table)}; pass the folder of one"
            )
        table = table["train"] if "train" in table else next(iter(table.values()))
    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if not images:
        raise ValueError(f"source: {path} has no image column, only {', '.join(table.features)}")
    encoded = table.select_columns(images[:1]).cast_column(images[0], datasets.Image(decode=False))
    items = _Encoded(encoded, images[0])
    names = _numbered(path, len(items))
    for name, kind in table.features.items():
        if isinstance(kind, datasets.ClassLabel):
            labels = [None if n is None or n < 0 else n for n in table[name]]
            return SourceImages(path, names, items, labels, kind.names)
    return SourceImages(path, names, items)


# Opening -------------------------------------------------------------------------------------


@contextmanager
def damage_drops() -> Iterator[None]:
    """Turn any exception, as decoders raise for damaged bytes, into Dropped."""
    try:
        yield
    except Dropped:
        raise
    except UnknownRange as error:
        raise Dropped("unknown range", str(error)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Dropped("bomb", reason_of(error)) from None
    except Exception as error:
        raise Dropped("unreadable", reason_of(error)) from None


class ItemReader:
    """Opens the items of a `SourceImages`. Picklable until the first one is opened."""

    def __init__(self, path: Path):
        self._path = path
        self._archive: zipfile.ZipFile | None = None

    def open(self, item: Item) -> tuple[Image.Image, int]:
        """Return the image, not decoded yet, and its size in bytes at the source.

        Raises Dropped if it cannot be used.
        """
        if isinstance(item, np.ndarray):
            return Image.fromarray(item), item.nbytes
        with damage_drops():
            data = self._read(item) if isinstance(item, str) else item
            if len(data) > MAX_BYTES:
                raise Dropped("bomb", f"more than {MAX_BYTES} bytes")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Dropped("bomb", f"{image.width}x{image.height} pixels")
            return image, len(data)

    def _read(self, name: str) -> bytes:
        if self._path.is_dir():
            # One byte more than allowed is enough for `open` to notice a larger file.
            with open(self._path / name, "rb") as file:
                return file.read(MAX_BYTES + 1)
        if self._archive is None:
            self._archive = open_zip(self._path)
        entry = self._archive.getinfo(name)
        check_entry(self._archive, entry)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # For other methods Python does not bound how much it decompresses at once.
            raise Dropped("unreadable", "compressed with a method other than deflate")
        ratio = entry.file_size / max(entry.compress_size, 1)
        if entry.file_size > MAX_BYTES or (entry.file_size > 1 << 20 and ratio > MAX_RATIO):
            raise Dropped("bomb", f"{entry.compress_size} bytes decompress to {entry.file_size}")
        with self._archive.open(entry) as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        """Close the archive."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None
