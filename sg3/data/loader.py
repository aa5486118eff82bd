"""Loader of batches in sampler order, prefetched by a thread or by worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from sg3.data.dataset import ImageDataset
from sg3.data.sampler import ShuffleSampler
from sg3.data.workers import DecodePool
from sg3.system import CAN_FORK

AHEAD = 2  # batches that are prefetched


class ReadingThread:
    """One thread that prepares batches, in pinned memory if `pin` and there is a GPU."""

    def __init__(self, pin: bool):
        self._pin = pin and torch.cuda.is_available()
        if self._pin:  # new threads start on device 0, which may belong to another process
            index = torch.cuda.current_device()
            self._pool = ThreadPoolExecutor(1, "", torch.cuda.set_device, (index,))
        else:
            self._pool = ThreadPoolExecutor(1)

    def submit(self, function: Callable, *args: Any) -> Future:
        """Call `function(*args)` in the thread."""
        return self._pool.submit(function, *args)

    def own(self, images: torch.Tensor, shared: bool) -> torch.Tensor:
        """Return `images` pinned if requested, else a copy if their memory is `shared`."""
        if self._pin:
            return images.pin_memory()
        return images.clone() if shared else images

    def close(self) -> None:
        """End the thread; pending calls are cancelled."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class BatchLoader:
    """Infinite batches of images and labels, with a state that resumes them exactly.

    Args:
        dataset: the images.
        sampler: their order, and this process's part of it.
        batch_size: images per batch of this process.
        workers: decoding processes. 0 decodes in a thread, which is also what cached images get.
            The batches do not depend on it.
        pin: return images in pinned memory.

    The state includes the indices of prefetched batches, so that a resumed run skips and repeats
    nothing. It is the same in all processes.
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
        # Labels come after images: decoding may have replaced a damaged file by the next one.
        return images, self.dataset.labels(indices)

    def _start(self, indices: list[int]) -> None:
        """Start reading this process's part of `indices`."""
        mine, slot = self.sampler.of_rank(indices), self._slot
        if self._pool is not None:
            self._pool.send(slot, mine)
        self._ahead.append((indices, self._thread.submit(self._read, mine, slot)))
        self._slot = (slot + 1) % AHEAD

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            self._start(self.sampler.take_all(self.batch_size * self.sampler.replicas))

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next images uint8 `[B, C, H, W]` and labels float32 `[B, label_dim]`.

        Raises ValueError for images of a different size, RuntimeError if a worker died.
        """
        self._fill()
        # Removed only once it is there: if reading fails, `state` still has these indices.
        batch = self._ahead[0][1].result()
        self._ahead.popleft()
        self._fill()
        return batch

    def state(self) -> dict:
        """Return the position as plain numbers, lists and tensors, for `load_state`."""
        return {
            "sampler": self.sampler.state(),
            "ahead": [indices for indices, _ in self._ahead],
        }

    def load_state(self, state: dict) -> None:
        """Resume exactly at `state`; the number of workers and processes may differ.

        Raises ValueError if the dataset has a different size.
        """
        self.sampler.load_state(state["sampler"])
        for _, future in self._ahead:
            future.exception()  # wait for it: its slot in shared memory is needed
        self._ahead.clear()
        for indices in state["ahead"] or []:
            self._start(list(indices))

    def close(self) -> None:
        """End the thread and the workers."""
        if self._pool is not None:
            self._pool.close()
        self._thread.close()
