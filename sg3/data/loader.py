"""Batches in sampler order, read ahead by a thread or by worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from sg3.data.dataset import ImageDataset
from sg3.data.sampler import ShuffleSampler
from sg3.data.workers import CAN_FORK, DecodePool

AHEAD = 2  # batches that are read before they are asked for


class ReadingThread:
    """One thread that prepares batches; pinned ones can go to the GPU while it works."""

    def __init__(self, pin: bool):
        self._pin = pin and torch.cuda.is_available()
        start = {}
        if self._pin:  # a thread begins on device 0, which may belong to another process
            start = {
                "initializer": torch.cuda.set_device,
                "initargs": (torch.cuda.current_device(),),
            }
        self._pool = ThreadPoolExecutor(max_workers=1, **start)

    def submit(self, function: Callable, *args) -> Future:
        return self._pool.submit(function, *args)

    def own(self, images: torch.Tensor, shared: bool) -> torch.Tensor:
        """`images` pinned if asked for, and copied if the memory is `shared`."""
        if self._pin:
            return images.pin_memory()
        return images.clone() if shared else images

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class BatchLoader:
    """Endless batches of images and labels whose position can be saved and restored exactly.

    Args:
        dataset: the images.
        sampler: their order, and this process's share of it.
        batch_size: images per batch of this process.
        workers: decoding processes; 0 decodes in a thread, and so do images in memory. The order
            does not depend on it.
        pin: hand out images in pinned memory.

    The batches that are being read ahead are part of the state as lists of indices, so that
    nothing is lost or shown twice when training goes on. The state is the same in all processes.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: ShuffleSampler,
        batch_size: int,
        workers: int = 0,
        pin: bool = False,
    ):
        self.dataset, self.sampler, self.batch_size = dataset, sampler, batch_size
        self._pool = None
        if workers > 0 and CAN_FORK and not dataset.in_memory:
            shape = dataset.image_shape
            self._pool = DecodePool(dataset.decode_into, shape, batch_size, workers, AHEAD)
        self._thread = ReadingThread(pin)
        self._ahead: deque[tuple[list[int], Future]] = deque()
        self._slot = 0

    def _read(self, indices: list[int], slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._pool is None:
            images = self._thread.own(self.dataset.images(indices), shared=False)
        else:
            rows, damaged = self._pool.collect(slot)
            for reasons in damaged:
                self.dataset.note_bad(reasons)
            images = self._thread.own(torch.from_numpy(rows), shared=True)
        return images, self.dataset.labels(indices)  # after the images: a label goes with its image

    def _start(self, indices: list[int]) -> None:
        """Begin to read this process's share of `indices`."""
        mine, slot = self.sampler.mine(indices), self._slot
        if self._pool is not None:
            self._pool.send(slot, mine)
        self._ahead.append((indices, self._thread.submit(self._read, mine, slot)))
        self._slot = (slot + 1) % AHEAD

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            self._start(self.sampler.take_all(self.batch_size * self.sampler.replicas))

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 `[B, C, H, W]` and labels float32 `[B, label_dim]`.

        Raises ValueError for images of another size, RuntimeError if a worker died.
        """
        self._fill()
        batch = self._ahead[0][1].result()
        self._ahead.popleft()
        self._fill()
        return batch

    def state(self) -> dict:
        """Plain numbers, lists and tensors that `load_state` continues from."""
        return {
            "sampler": self.sampler.state(),
            "ahead": [indices for indices, _ in self._ahead],
        }

    def load_state(self, state: dict) -> None:
        """Go on exactly where `state()` was taken, with any number of workers or processes.

        Raises ValueError for a data set of another size.
        """
        self.sampler.load_state(state["sampler"])
        for _, future in self._ahead:
            future.exception()  # let it finish: its place in shared memory is needed
        self._ahead.clear()
        for indices in state["ahead"] or []:
            self._start(list(indices))

    def close(self) -> None:
        """End the reading thread and the workers."""
        if self._pool is not None:
            self._pool.close()
        self._thread.close()
