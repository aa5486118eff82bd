"""What all kinds of training data offer."""

from __future__ import annotations

import numpy as np
import torch


class TrainingImages:
    """What all kinds of data sets offer: shape, labels by item, and what was left out."""

    def __init__(self, name: str):
        self.name = name
        self.image_shape: tuple[int, int, int] = (0, 0, 0)
        self._skipped: dict[str, str] = {}

    def __len__(self) -> int:
        raise NotImplementedError

    def images(self, indices) -> torch.Tensor:
        """Images uint8 `[B, C, H, W]` of the items `indices`."""
        raise NotImplementedError

    def labels(self, indices) -> torch.Tensor:
        """Labels float32 `[B, label_dim]` of the items `indices`."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image uint8 `[C, H, W]` and label float32 `[label_dim]`."""
        return self.images([index])[0], self.labels([index])[0]

    @property
    def label_dim(self) -> int:
        raise NotImplementedError

    @property
    def has_labels(self) -> bool:
        return self.label_dim > 0

    @property
    def resolution(self) -> int | tuple[int, int]:
        """Side of square images, (height, width) of others."""
        _, height, width = self.image_shape
        return height if height == width else (height, width)

    def describe(self) -> str:
        """How much there is, for people: `70000 images`."""
        return f"{len(self)} images"

    def skip(self, name: str, reason: str) -> None:
        """Note that the file `name` is left out, once."""
        self._skipped.setdefault(name, reason)

    @property
    def num_skipped(self) -> int:
        """How many files were left out so far."""
        return len(self._skipped)

    @property
    def skipped(self) -> list[str]:
        """Lines "name: reason", one for each file that was left out so far."""
        return [f"{name}: {reason}" for name, reason in list(self._skipped.items())]

    def random_labels(self, random: np.random.RandomState, count: int) -> torch.Tensor:
        """Labels float32 `[count, label_dim]` of uniformly drawn items (REFERENCE.md §4.2)."""
        if not self.has_labels:
            return torch.zeros([count, 0])
        return self.labels(random.randint(len(self), size=count))
