"""Base class of datasets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

#: What items are selected with.
Indices = Sequence[int] | np.ndarray | torch.Tensor | range


class TrainingImages:
    """Interface of all datasets: image shape, images and labels by index, skipped files."""

    def __init__(self, name: str):
        self.name = name
        self.image_shape: tuple[int, int, int] = (0, 0, 0)
        #: Lines about files that are not read and classes without images.
        self.notes: list[str] = []
        #: Kind, 'classes' or 'vectors', and number of the labels that were not asked for.
        self.unused_labels: tuple[str, int] | None = None
        self._skipped: dict[str, str] = {}

    def __len__(self) -> int:
        raise NotImplementedError

    def images(self, indices: Indices) -> torch.Tensor:
        """Return images uint8 `[B, C, H, W]`."""
        raise NotImplementedError

    def labels(self, indices: Indices) -> torch.Tensor:
        """Return labels float32 `[B, label_dim]`."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image uint8 `[C, H, W]` and label float32 `[label_dim]`."""
        return self.images([index])[0], self.labels([index])[0]

    @property
    def label_dim(self) -> int:
        """Number of classes, or dimension of label vectors; 0 without labels."""
        raise NotImplementedError

    @property
    def label_kind(self) -> str | None:
        """'classes' (one-hot labels), 'vectors', or None without labels."""
        raise NotImplementedError

    @property
    def has_labels(self) -> bool:
        """Whether the dataset has labels."""
        return self.label_dim > 0

    @property
    def resolution(self) -> int | tuple[int, int]:
        """Side length of square images, (height, width) of others."""
        _, height, width = self.image_shape
        return height if height == width else (height, width)

    def describe(self) -> str:
        """Return the size in words: `70000 images of 10 classes`."""
        return f"{len(self)} image{'s' * (len(self) != 1)}{self._labels_in_words()}"

    def _labels_in_words(self) -> str:
        if not self.has_labels:
            return ""
        if self.label_kind == "vectors":
            return f" with labels of {self.label_dim} numbers"
        return f" of {self.label_dim} classes"

    def skip(self, name: str, reason: str) -> None:
        """Record that file `name` is skipped; the first reason is kept."""
        self._skipped.setdefault(name, reason)

    @property
    def num_skipped(self) -> int:
        """Number of files skipped so far."""
        return len(self._skipped)

    @property
    def skipped(self) -> list[str]:
        """One line "name: reason" per file skipped so far."""
        return [f"{name}: {reason}" for name, reason in list(self._skipped.items())]

    def random_labels(self, random: np.random.RandomState, count: int) -> torch.Tensor:
        """Return labels float32 `[count, label_dim]` of random items (REFERENCE.md §4.2)."""
        if not self.has_labels:
            return torch.zeros([count, 0])
        return self.labels(random.randint(len(self), size=count))
