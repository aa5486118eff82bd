"""Dataset of equally sized images in a folder or zip, with optional labels (REFERENCE.md §4.11)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sg3.data.base import Indices, TrainingImages
from sg3.data.decoding import DamagedImage, shape_text
from sg3.data.labels import Labels, num_labels, read_labels
from sg3.data.source import ImageSource
from sg3.data.workers import DecodePool
from sg3.system import CAN_FORK, memory_bytes

CACHE_MODES = ("auto", "ram", "none")
CACHE_FRACTION = 0.25  # largest fraction of the machine's memory that 'auto' caches
CHECK_ALL = 50_000  # up to this size every header is checked at the start,
CHECK_SOME = 2_000  # in larger datasets this many, evenly spaced
MAX_FAILURES = 1_000  # consecutive unreadable images after which the disk counts as gone
THREADS = 8  # for reading headers, which is mostly waiting for the disk
DARK = 15  # of 255: what 12 bits in 16 become
DARK_PROBES = 16  # images that are checked for that if they are not cached
DECODE_TOGETHER = 64  # images per task of a decoding process
DECODE_ALONE = 512  # up to this size starting processes costs more than it saves


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun


def _memory_bytes() -> int:
    """Return this process's part of the machine's memory."""
    return memory_bytes() // _processes_here()


class ImageDataset(TrainingImages):
    """Images uint8 `[C, H, W]` from a folder or zip.

    All images must have the size and mode (gray, RGB or RGBA) of the first. Damaged files are
    skipped and listed in `skipped`. A file found damaged at the start is not an item; one found
    damaged later is replaced by the next readable image, identically in all processes.

    Args:
        path: folder (searched recursively) or `.zip`.
        use_labels: read labels from `dataset.json` or, without that file, from the first-level
            sub-folders; otherwise the label dimension is 0. `class_names` holds the folder names
            or the "classes" of `dataset.json`.
        max_size: maximum number of images, chosen with `random_seed`. None: all.
        xflip: append a horizontally flipped copy of every image.
        resolution: height and width that the images must have. None: any.
        random_seed: random seed for `max_size`.
        cache: 'ram' decodes everything once, 'none' decodes on demand, 'auto' is 'ram' if the
            images take at most a quarter of the memory.
        yflip: append a vertically flipped copy of every image, after `xflip`.

    Raises ValueError for missing or empty data and for images of different shapes.
    """

    def __init__(
        self,
        path: str | Path,
        use_labels: bool = False,
        max_size: int | None = None,
        xflip: bool = False,
        resolution: int | None = None,
        random_seed: int = 0,
        cache: str = "auto",
        yflip: bool = False,
    ):
        if cache not in CACHE_MODES:
            raise ValueError(f"cache: got {cache!r}, expected one of {', '.join(CACHE_MODES)}")
        super().__init__(Path(path).stem)
        self.path = Path(path)
        self._source = ImageSource(path)
        self._names = self._readable_names()
        _, height, width = self.image_shape
        if resolution is not None and (height, width) != (resolution, resolution):
            raise ValueError(
                f"data: images in {path} are {width}x{height}, expected {resolution}x{resolution}; "
                "prepare them with: sg3 dataset"
            )
        self._labels: Labels | None = None
        self.notes += self._source.notes
        if use_labels:
            self._labels = read_labels(self._source, self._names)
            self.notes += self._labels.notes
        else:
            self.unused_labels = num_labels(self._source, self._names)
        self._files, self._xflip, self._yflip = self._choose(max_size, xflip, yflip, random_seed)
        self._used = np.unique(self._files)
        self._bad: dict[int, str] = {}
        self._cache: np.ndarray | None = None  # uint8 [files, C, H, W]
        if self._wants_cache(cache):
            self._decode_all()
        self.notes += self._notes_of_darkness()

    def _notes_of_darkness(self) -> list[str]:
        """Return a line if gray images seem to hold fewer bits than their files do."""
        if self.image_shape[0] > 1:
            return []
        images = self._cache
        if images is None:
            some = np.unique(np.linspace(0, len(self) - 1, DARK_PROBES).round().astype(int))
            images = self.images(some).numpy()
        if images.max() > DARK:
            return []
        return [
            f"no image is brighter than {images.max()} of 255: if they have 12 bits stored in 16, "
            "scale them to 65535 first"
        ]

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, if known."""
        return None if self._labels is None else self._labels.class_names

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded and cached."""
        return self._cache is not None

    @property
    def label_dim(self) -> int:
        return 0 if self._labels is None else self._labels.dim

    @property
    def label_kind(self) -> str | None:
        return None if self._labels is None else self._labels.kind

    def __len__(self) -> int:
        return self._files.size

    def _readable_names(self) -> list[str]:
        """Return the names of images with intact headers; sets the common shape."""
        names = self._source.image_names
        checked = names
        if len(names) > CHECK_ALL:
            rows = np.unique(np.linspace(0, len(names) - 1, CHECK_SOME).round().astype(int))
            checked = [names[row] for row in rows]
        first = None
        with ThreadPoolExecutor(THREADS) as pool:
            for name, shape in zip(checked, pool.map(self._header_shape, checked), strict=True):
                if isinstance(shape, DamagedImage):
                    self.skip(name, str(shape))
                    continue
                first = first or (name, shape)
                if shape != first[1]:
                    raise self._other_shape(name, shape_text(shape), *first)
        if first is None:
            name, reason = next(iter(self._skipped.items()))
            raise ValueError(
                f"data: none of the images in {self.path} can be read, first {name}: {reason}"
            )
        self._first, self.image_shape = first
        return [name for name in names if name not in self._skipped]

    def _header_shape(self, name: str) -> tuple[int, int, int] | DamagedImage:
        try:
            return self._source.image_shape(name)
        except DamagedImage as error:
            return error

    @staticmethod
    def _other_shape(name: str, what: str, first: str, shape: tuple[int, int, int]) -> ValueError:
        return ValueError(
            f"data: {name} is {what}, but {first} is {shape_text(shape)}; all images need the same "
            "size and mode; prepare them with: sg3 dataset --resolution WxH --transform center-crop"
        )

    def _choose(
        self, max_size: int | None, xflip: bool, yflip: bool, random_seed: int
    ) -> list[np.ndarray]:
        """Return file index, horizontal flip and vertical flip of every item, each `[items]`."""
        files = np.arange(len(self._names), dtype=np.int64)
        if max_size is not None and max_size < files.size:
            np.random.RandomState(random_seed).shuffle(files)
            files = np.sort(files[:max_size])
        x_flipped = y_flipped = np.zeros(files.size, dtype=bool)
        if xflip:
            files, y_flipped = np.tile(files, 2), np.tile(y_flipped, 2)
            x_flipped = np.concatenate([x_flipped, ~x_flipped])
        if yflip:
            files, x_flipped = np.tile(files, 2), np.tile(x_flipped, 2)
            y_flipped = np.concatenate([y_flipped, ~y_flipped])
        return [files, x_flipped, y_flipped]

    def _wants_cache(self, mode: str) -> bool:
        size = self._used.size * int(np.prod(self.image_shape))
        return mode == "ram" or (mode == "auto" and size <= CACHE_FRACTION * _memory_bytes())

    def _decode(self, file: int) -> np.ndarray:
        """Decode one file. Raises DamagedImage, or ValueError for a different shape."""
        name = self._names[file]
        try:
            return self._source.decode(name, self.image_shape)
        except DamagedImage:
            raise
        except ValueError as error:
            what = str(error).split(",")[0].removeprefix("is ")
            raise self._other_shape(name, what, self._first, self.image_shape) from None

    def _decode_all(self) -> None:
        """Fill the cache and remove items that cannot be decoded."""
        images = np.empty([self._used.size, *self.image_shape], dtype=np.uint8)
        self._row = np.full(len(self._names), -1, dtype=np.int64)
        self._row[self._used] = np.arange(self._used.size)

        for rows, decoded, damaged in self._decoded_parts():
            images[rows] = decoded
            self.note_bad(damaged)
        if len(self._bad) == self._used.size:
            raise ValueError(
                f"data: none of the images can be decoded, first {self.skipped[0]} ({self.path})"
            )
        keep = ~np.isin(self._files, list(self._bad))
        self._files, self._xflip, self._yflip = (
            values[keep] for values in (self._files, self._xflip, self._yflip)
        )
        self._cache = images

    def _decoded_parts(self) -> Iterator[tuple[slice, np.ndarray, dict[int, str]]]:
        """Yield (rows of the cache, images, damaged files with reasons) until all are decoded.

        The images are valid until the next one is requested: the memory is reused.
        """
        parts = [
            slice(start, min(start + DECODE_TOGETHER, self._used.size))
            for start in range(0, self._used.size, DECODE_TOGETHER)
        ]
        # The other processes of the run decode their own copy at the same time.
        workers = min(8, (os.cpu_count() or 1) // _processes_here())
        if self._used.size <= DECODE_ALONE or workers < 2 or not CAN_FORK:
            out = np.empty([DECODE_TOGETHER, *self.image_shape], dtype=np.uint8)
            for rows in parts:
                decoded = out[: rows.stop - rows.start]
                yield rows, decoded, self._decode_files(self._used[rows].tolist(), decoded)
            return
        pool = DecodePool(self._decode_files, self.image_shape, DECODE_TOGETHER, workers, slots=2)
        try:
            # Two slots: the workers decode one part while the previous one is copied.
            for index in range(len(parts) + 1):
                if index < len(parts):
                    pool.send(index % 2, self._used[parts[index]].tolist())
                if index > 0:
                    rows = parts[index - 1]
                    decoded, damaged = pool.collect((index - 1) % 2)
                    yield rows, decoded[: rows.stop - rows.start], _union(damaged)
        finally:
            pool.close()

    def _decode_files(self, files: list[int], out: np.ndarray) -> dict[int, str]:
        """Decode files into `out`, uint8 `[B, C, H, W]`; return damaged ones with reasons."""
        damaged = {}
        for row, file in zip(out, files, strict=True):
            try:
                row[:] = self._decode(file)
            except DamagedImage as error:
                damaged[file] = str(error)
        return damaged

    def note_bad(self, reasons: dict[int, str]) -> None:
        """Skip these files from now on; {file index: reason}, as `decode_into` returns them."""
        for file, reason in reasons.items():
            self._bad[file] = reason
            self.skip(self._names[file], reason)

    def _stand_in(self, file: int) -> int:
        """Return `file`, or the next file not known to be damaged."""
        row = int(np.searchsorted(self._used, file))
        while int(self._used[row]) in self._bad:
            row = (row + 1) % self._used.size
        return int(self._used[row])

    def _read(self, file: int) -> np.ndarray:
        """Decode `file`, or the next readable one in its place."""
        # Limited: if the disk is gone, every file looks damaged.
        for _ in range(min(MAX_FAILURES, self._used.size)):
            file = self._stand_in(file)
            try:
                return self._decode(file)
            except DamagedImage as error:
                self.note_bad({file: str(error)})
                if len(self._bad) == self._used.size:
                    break
        raise ValueError(
            f"data: {len(self._bad)} images of {self.path} cannot be read, last "
            f"{self.skipped[-1]}; is the disk still there?"
        )

    def decode_into(self, indices: list[int], out: np.ndarray) -> dict[int, str]:
        """Decode the items `indices` into `out`, uint8 `[B, C, H, W]`.

        Returns {file index: reason} of files newly found damaged.
        """
        known = set(self._bad)  # already reported when found
        for row, index in zip(out, indices, strict=True):
            image = self._read(int(self._files[index]))
            image = image[:, :, ::-1] if self._xflip[index] else image
            row[:] = image[:, ::-1] if self._yflip[index] else image
        return {file: reason for file, reason in dict(self._bad).items() if file not in known}

    def images(self, indices: Indices) -> torch.Tensor:
        """Return images uint8 `[B, C, H, W]`."""
        indices = np.asarray(indices, dtype=np.int64)
        if self._cache is None:
            images = torch.empty([indices.size, *self.image_shape], dtype=torch.uint8)
            self.decode_into(indices.tolist(), images.numpy())
            return images
        images = self._cache[self._row[self._files[indices]]]
        for row in np.flatnonzero(self._xflip[indices]):
            # A copy, because source and destination are the same memory.
            images[row] = images[row, :, :, ::-1].copy()
        for row in np.flatnonzero(self._yflip[indices]):
            images[row] = images[row, :, ::-1].copy()
        return torch.from_numpy(images)

    def labels(self, indices: Indices) -> torch.Tensor:
        """Return labels float32 `[B, label_dim]`; for a damaged image those of its replacement."""
        indices = np.asarray(indices, dtype=np.int64)
        if self._labels is None:
            return torch.zeros([indices.size, 0])
        files = self._files[indices]
        for row in np.flatnonzero(np.isin(files, list(self._bad))):
            files[row] = self._stand_in(int(files[row]))
        return torch.from_numpy(self._labels.rows(files))


def _union(tables: list[dict[int, str]]) -> dict[int, str]:
    return {key: value for table in tables for key, value in table.items()}
