"""A set of equally sized training images with optional labels (FACTS 4.11)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sg3.data.source import ImageSource, to_array

CACHE_MODES = ("auto", "ram", "none")
CACHE_SHARE = 0.25  # of the machine's memory that `auto` may fill


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class ImageDataset:
    """Images uint8 `[C, H, W]` of a folder or of a zip in the official layout.

    Args:
        path: folder (searched recursively) or `.zip`.
        use_labels: read labels from `dataset.json`; otherwise the label dimension is 0.
        max_size: keep that many images, chosen with `random_seed`.
        xflip: append a mirrored copy of every image.
        resolution: height and width that the images must have, if given.
        cache: 'ram' decodes everything once, 'none' decodes on demand, 'auto' takes memory if
            the images fill less than a quarter of it.

    Raises ValueError, in one line, for missing, empty, damaged or unequal data.
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
    ):
        if cache not in CACHE_MODES:
            raise ValueError(f"cache: got {cache!r}, expected one of {', '.join(CACHE_MODES)}")
        self.path, self.name = Path(path), Path(path).stem
        self.class_names: list[str] | None = None
        self.skipped: list[str] = []
        self._source = ImageSource(path)
        self._names = self._source.image_names
        self.image_shape = to_array(self._source.open_image(self._names[0])).shape
        channels, height, width = self.image_shape
        if resolution is not None and (height, width) != (resolution, resolution):
            raise ValueError(
                f"data: images in {path} are {width}x{height}, expected {resolution}x{resolution}; "
                "prepare them with: sg3 dataset"
            )
        if channels not in (1, 3, 4):
            raise ValueError(f"data: images in {path} have {channels} channels, expected 1, 3 or 4")
        self._labels = self._load_labels() if use_labels else None
        self._raw, self._flip = self._choose(max_size, xflip, random_seed)
        self._cache = self._decode_all() if self._wants_cache(cache) else None

    def _choose(self, max_size, xflip, random_seed) -> tuple[np.ndarray, np.ndarray]:
        """File index and mirror flag of every item."""
        raw = np.arange(len(self._names), dtype=np.int64)
        if max_size is not None and max_size < raw.size:
            np.random.RandomState(random_seed).shuffle(raw)
            raw = np.sort(raw[:max_size])
        flip = np.zeros(raw.size, dtype=bool)
        if xflip:
            raw, flip = np.tile(raw, 2), np.concatenate([flip, ~flip])
        return raw, flip

    def _load_labels(self) -> np.ndarray:
        """Labels `[files, label_dim]`, float32: classes one-hot, vectors as they are."""
        table = self._source.read_labels()
        if table is None:
            raise ValueError(f"data: labels were asked for but {self.path} has none (dataset.json)")
        missing = [n for n in self._names if n not in table]
        if missing:
            raise ValueError(f"data: {len(missing)} images lack a label, first {missing[0]}")
        labels = np.array([table[n] for n in self._names])
        if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
            return np.eye(labels.max() + 1, dtype=np.float32)[labels]
        if labels.ndim != 2:
            raise ValueError("data: labels must be whole numbers or vectors of equal length")
        return labels.astype(np.float32)

    def _wants_cache(self, mode: str) -> bool:
        files = np.unique(self._raw).size
        size = files * int(np.prod(self.image_shape))
        return mode == "ram" or (mode == "auto" and size <= CACHE_SHARE * _memory_bytes())

    def _decode(self, raw_index: int) -> np.ndarray:
        name = self._names[raw_index]
        array = to_array(self._source.open_image(name))
        if array.shape != self.image_shape:
            raise ValueError(
                f"data: {name} has shape {list(array.shape)}, the first image "
                f"{list(self.image_shape)}; prepare them with: sg3 dataset"
            )
        return array

    def _decode_all(self) -> torch.Tensor:
        """All images that items refer to, uint8 `[files, C, H, W]`."""
        used = np.unique(self._raw)
        self._row = np.full(len(self._names), -1, dtype=np.int64)
        self._row[used] = np.arange(used.size)
        images = torch.empty([used.size, *self.image_shape], dtype=torch.uint8)
        view = images.numpy()

        def fill(row: int) -> None:
            view[row] = self._decode(int(used[row]))

        with ThreadPoolExecutor(max_workers=2) as pool:
            for _ in pool.map(fill, range(used.size)):
                pass
        return images

    def __len__(self) -> int:
        return self._raw.size

    @property
    def resolution(self) -> int:
        """Side of the square images. Raises ValueError if they are not square."""
        _, height, width = self.image_shape
        if height != width:
            raise ValueError(
                f"data: images are {width}x{height}, expected squares; "
                "prepare them with: sg3 dataset"
            )
        return height

    @property
    def num_skipped(self) -> int:
        """How many files were left out as unreadable; `skipped` says which and why."""
        return len(self.skipped)

    @property
    def has_labels(self) -> bool:
        return self.label_dim > 0

    def random_labels(self, random: np.random.RandomState, count: int) -> torch.Tensor:
        """Labels float32 `[count, label_dim]` of uniformly drawn items (FACTS 4.2)."""
        if not self.has_labels:
            return torch.zeros([count, 0])
        return self.labels(random.randint(len(self), size=count))

    @property
    def label_dim(self) -> int:
        return 0 if self._labels is None else self._labels.shape[1]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image uint8 `[C, H, W]` and label float32 `[label_dim]`."""
        return self.images([index])[0], self.labels([index])[0]

    def images(self, indices) -> torch.Tensor:
        """Images uint8 `[B, C, H, W]` of the items `indices`."""
        indices = np.asarray(indices, dtype=np.int64)
        raw, flip = self._raw[indices], self._flip[indices]
        if self._cache is not None:
            images = self._cache[torch.from_numpy(self._row[raw])]
        else:
            images = torch.from_numpy(np.stack([self._decode(int(i)) for i in raw]))
        if flip.any():
            rows = torch.from_numpy(flip)
            images[rows] = images[rows].flip(3)
        return images

    def labels(self, indices) -> torch.Tensor:
        """Labels float32 `[B, label_dim]` of the items `indices`."""
        indices = np.asarray(indices, dtype=np.int64)
        if self._labels is None:
            return torch.zeros([indices.size, 0])
        return torch.from_numpy(self._labels[self._raw[indices]])
