"""Batches in sampler order, read one ahead in a thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from sg3.data.dataset import ImageDataset
from sg3.data.sampler import ShuffleSampler


class BatchLoader:
    """Endless batches of images and labels whose position can be saved and restored exactly.

    The batch that is being read ahead is part of the state as a list of indices, so that nothing
    is lost or shown twice when training goes on.
    """

    def __init__(self, dataset: ImageDataset, sampler: ShuffleSampler, batch_size: int):
        self.dataset, self.sampler, self.batch_size = dataset, sampler, batch_size
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._ahead: list[int] | None = None
        self._future = None

    def _read(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.dataset.images(indices), self.dataset.labels(indices)

    def _start(self, indices: list[int]) -> None:
        self._ahead = indices
        self._future = self._pool.submit(self._read, indices)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 `[B, C, H, W]` and labels float32 `[B, label_dim]`."""
        if self._future is None:
            self._start(self.sampler.take(self.batch_size))
        batch = self._future.result()
        self._start(self.sampler.take(self.batch_size))
        return batch

    def state(self) -> dict:
        """Plain numbers and lists that `load_state` continues from."""
        return {"sampler": self.sampler.state(), "ahead": self._ahead}

    def load_state(self, state: dict) -> None:
        """Go on exactly where `state()` was taken."""
        self.sampler.load_state(state["sampler"])
        self._future = self._ahead = None
        if state["ahead"] is not None:
            self._start(list(state["ahead"]))

    def close(self) -> None:
        """End the reading thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
