"""A set of equally sized training images with optional labels (REFERENCE.md §4.11)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sg3.data.base import TrainingImages
from sg3.data.labels import Labels, read_labels
from sg3.data.source import DamagedImage, ImageSource, shape_text
from sg3.data.workers import CAN_FORK, DecodePool

CACHE_MODES = ("auto", "ram", "none")
CACHE_SHARE = 0.25  # of the machine's memory that `auto` may fill
CHECK_ALL = 50_000  # of larger sets only some headers are read before training
CHECK_SOME = 2_000
MAX_FAILURES = 1_000  # unreadable images in a row mean that the disk is gone
THREADS = 8  # that read headers, which is mostly waiting
DECODE_TOGETHER = 64  # images
DECODE_ALONE = 512  # images that are not worth starting processes


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun


def _memory_bytes() -> int:
    """Memory for each of the training processes on this machine."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of the container
    text = limit.read_text().strip() if limit.is_file() else ""
    if text.isdigit():
        total = min(total, int(text))
    return total // _processes_here()


class ImageDataset(TrainingImages):
    """Images uint8 `[C, H, W]` of a folder or of a zip in the official layout.

    All must have the size and mode (gray, RGB or RGBA) of the first. Damaged files are left out
    and listed in `skipped`: those that are found at the start never become items; one that is
    found later stands for the next readable one, in every process alike.

    Args:
        path: folder (searched recursively) or `.zip`.
        use_labels: read labels from `dataset.json`, or without one from the first-level
            sub-folders; otherwise the label dimension is 0. `class_names` are then the folders,
            or "classes" of `dataset.json`.
        max_size: keep that many images, chosen with `random_seed`.
        xflip: append a mirrored copy of every image.
        resolution: height and width that the images must have, if given.
        cache: 'ram' decodes everything once, 'none' decodes on demand, 'auto' takes memory if
            the images fill less than a quarter of it.
        yflip: after that, append a copy of everything that is upside down.

    Raises ValueError, in one line, for missing, empty or unequal data.
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
        if use_labels:
            self._labels = read_labels(self._source, self._names)
        self._files, self._xflip, self._yflip = self._choose(max_size, xflip, yflip, random_seed)
        self._used = np.unique(self._files)
        self._bad: dict[int, str] = {}
        self._cache: np.ndarray | None = None  # uint8 [files, C, H, W]
        if self._wants_cache(cache):
            self._decode_all()

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, where they are known."""
        return None if self._labels is None else self._labels.class_names

    @property
    def in_memory(self) -> bool:
        """Whether everything is decoded already."""
        return self._cache is not None

    @property
    def label_dim(self) -> int:
        return 0 if self._labels is None else self._labels.dim

    def __len__(self) -> int:
        return self._files.size

    def _readable_names(self) -> list[str]:
        """Names of the images whose headers are sound; sets the shape that they share."""
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
            f"data: {name} is {what}, but {first} is {shape_text(shape)}; all images must have one "
            "size and mode; prepare them with: sg3 dataset --resolution WxH --transform center-crop"
        )

    def _choose(self, max_size, xflip, yflip, random_seed) -> list[np.ndarray]:
        """For every item: the number of its file, whether it is mirrored, and upside down."""
        files = np.arange(len(self._names), dtype=np.int64)
        if max_size is not None and max_size < files.size:
            np.random.RandomState(random_seed).shuffle(files)
            files = np.sort(files[:max_size])
        mirrored = upside_down = np.zeros(files.size, dtype=bool)
        if xflip:
            files, upside_down = np.tile(files, 2), np.tile(upside_down, 2)
            mirrored = np.concatenate([mirrored, ~mirrored])
        if yflip:
            files, mirrored = np.tile(files, 2), np.tile(mirrored, 2)
            upside_down = np.concatenate([upside_down, ~upside_down])
        return [files, mirrored, upside_down]

    def _wants_cache(self, mode: str) -> bool:
        size = self._used.size * int(np.prod(self.image_shape))
        return mode == "ram" or (mode == "auto" and size <= CACHE_SHARE * _memory_bytes())

    def _decode(self, file: int) -> np.ndarray:
        """Raises DamagedImage, and ValueError for another shape."""
        name = self._names[file]
        try:
            return self._source.decode(name, self.image_shape)
        except DamagedImage:
            raise
        except ValueError as error:
            what = str(error).split(",")[0].removeprefix("is ")
            raise self._other_shape(name, what, self._first, self.image_shape) from None

    def _decode_all(self) -> None:
        """Fill the cache and drop items that cannot be decoded."""
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
        """All used files in parts: rows of the cache, images, and which are damaged and why."""
        parts = [
            slice(start, min(start + DECODE_TOGETHER, self._used.size))
            for start in range(0, self._used.size, DECODE_TOGETHER)
        ]
        workers = min(8, (os.cpu_count() or 1) // _processes_here())
        if self._used.size <= DECODE_ALONE or workers < 2 or not CAN_FORK:
            out = np.empty([DECODE_TOGETHER, *self.image_shape], dtype=np.uint8)
            for rows in parts:
                decoded = out[: rows.stop - rows.start]
                yield rows, decoded, self._decode_files(self._used[rows].tolist(), decoded)
            return
        pool = DecodePool(self._decode_files, self.image_shape, DECODE_TOGETHER, workers, slots=2)
        try:
            for index, rows in enumerate([*parts, None]):
                if rows is not None:
                    pool.send(index % 2, self._used[rows].tolist())
                if index > 0:
                    before = parts[index - 1]
                    decoded, damaged = pool.collect((index - 1) % 2)
                    yield before, decoded[: before.stop - before.start], _union(damaged)
        finally:
            pool.close()

    def _decode_files(self, files: list[int], out: np.ndarray) -> dict[int, str]:
        """Write files to `out`, uint8 `[B, C, H, W]`; returns which are damaged and why."""
        damaged = {}
        for row, file in zip(out, files, strict=True):
            try:
                row[:] = self._decode(file)
            except DamagedImage as error:
                damaged[file] = str(error)
        return damaged

    def note_bad(self, reasons: dict[int, str]) -> None:
        """Leave out these files, here and wherever they were found damaged."""
        for file, reason in reasons.items():
            self._bad[file] = reason
            self.skip(self._names[file], reason)

    def _stand_in(self, file: int) -> int:
        """`file`, or the next one that is not known to be damaged."""
        row = int(np.searchsorted(self._used, file))
        while int(self._used[row]) in self._bad:
            row = (row + 1) % self._used.size
        return int(self._used[row])

    def _read(self, file: int) -> np.ndarray:
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
        """Write the items `indices` to `out`, uint8 `[B, C, H, W]`, from their files.

        Returns damaged files by number with the reason, if new ones were met.
        """
        known = set(self._bad)  # all of which were reported when they were found
        for row, index in zip(out, indices, strict=True):
            image = self._read(int(self._files[index]))
            image = image[:, :, ::-1] if self._xflip[index] else image
            row[:] = image[:, ::-1] if self._yflip[index] else image
        return {file: reason for file, reason in dict(self._bad).items() if file not in known}

    def images(self, indices) -> torch.Tensor:
        """Images uint8 `[B, C, H, W]` of the items `indices`."""
        indices = np.asarray(indices, dtype=np.int64)
        if self._cache is None:
            images = torch.empty([indices.size, *self.image_shape], dtype=torch.uint8)
            self.decode_into(indices.tolist(), images.numpy())
            return images
        images = self._cache[self._row[self._files[indices]]]
        for row in np.flatnonzero(self._xflip[indices]):
            images[row] = images[row, :, :, ::-1].copy()
        for row in np.flatnonzero(self._yflip[indices]):
            images[row] = images[row, :, ::-1].copy()
        return torch.from_numpy(images)

    def labels(self, indices) -> torch.Tensor:
        """Labels float32 `[B, label_dim]` of the items `indices`."""
        indices = np.asarray(indices, dtype=np.int64)
        if self._labels is None:
            return torch.zeros([indices.size, 0])
        files = self._files[indices]
        for row in np.flatnonzero(np.isin(files, list(self._bad))):
            files[row] = self._stand_in(int(files[row]))
        return torch.from_numpy(self._labels.rows(files))


def _union(tables: list[dict[int, str]]) -> dict[int, str]:
    return {key: value for table in tables for key, value in table.items()}
