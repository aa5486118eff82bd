"""Loader of batches from tar shards: seeded order, shuffle buffer, exact resume."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch

from sg3.data.loader import AHEAD, ReadingThread
from sg3.data.shards import ShardDataset, flip
from sg3.data.tar_stream import Sample, read_shard
from sg3.data.workers import DecodePool
from sg3.system import CAN_FORK


def mix(items: Iterable, size: int, random: np.random.RandomState) -> Iterator:
    """Shuffle a stream with a buffer of `size` items."""
    buffer: list = []
    for item in items:
        buffer.append(item)
        if len(buffer) == size:
            yield _pop(buffer, random)
    while buffer:
        yield _pop(buffer, random)


def _pop(buffer: list, random: np.random.RandomState):
    row = random.randint(len(buffer))
    buffer[row], buffer[-1] = buffer[-1], buffer[row]
    return buffer.pop()


@dataclass(frozen=True)
class ShardOrder:
    """Order in which one of `replicas` processes reads the samples.

    Every epoch permutes the shards anew, the same for all ranks. With at least as many shards as
    ranks, each rank takes every `replicas`-th shard; otherwise every `replicas`-th sample. So an
    epoch shows each sample once, on one rank. Samples then pass through a shuffle buffer.
    """

    dataset: ShardDataset
    seed: int
    rank: int
    replicas: int

    def _shards(self, epoch: int) -> tuple[list[int], int, int]:
        """Return this rank's shards, and the first and the step of its samples in them."""
        number = len(self.dataset.urls)
        order = np.random.RandomState([self.seed, epoch]).permutation(number).tolist()
        if number >= self.replicas:
            return order[self.rank :: self.replicas], 0, 1
        return order, self.rank, self.replicas

    def _random(self, epoch: int) -> np.random.RandomState:
        return np.random.RandomState([self.seed, epoch, self.rank + 1])

    def samples(self, epoch: int, start: int) -> Iterator[Sample | None]:
        """Yield the samples of an epoch from index `start` on; None for lost ones."""
        shards, first, step = self._shards(epoch)
        counts = self.dataset.counts
        needed = 0
        if counts is not None and start > 0:
            # Shuffle indices alone to find the first one needed: shards before it stay closed.
            total = sum(counts[shard] for shard in shards)
            arrivals = mix(range(first, total, step), self.dataset.buffer, self._random(epoch))
            needed = min(islice(arrivals, start, None), default=total)
        arrivals = islice(self._arrivals(shards, needed), first, None, step)
        yield from islice(mix(arrivals, self.dataset.buffer, self._random(epoch)), start, None)

    def _arrivals(self, shards: list[int], needed: int) -> Iterator[Sample | None]:
        """Yield samples of `shards` in order; None for lost ones and for shards before `needed`."""
        position = 0
        for shard in shards:
            url, skip = self.dataset.urls[shard], self.dataset.skip
            if self.dataset.counts is None:
                yield from read_shard(url, skip)
                continue
            count = self.dataset.counts[shard]
            position += count
            if position <= needed:
                yield from [None] * count
                continue
            found = 0
            for sample in islice(read_shard(url, skip), count):
                found += 1
                yield sample
            if found < count:  # keep the places of lost samples, or a resume would be off by them
                skip(f"{url} (index)", f"{count} samples announced, {found} found")
                yield from [None] * (count - found)


class ShardLoader:
    """Infinite batches from tar shards, with a state that resumes them exactly.

    One thread reads the shards; images are decoded there or by `workers` processes, which does
    not change the order. The state holds the epoch and the number of samples consumed, and
    differs between ranks. Resuming skips those samples without decoding them, and without opening
    their shards if an index lists the number of samples per shard.

    Args:
        dataset: the shards.
        batch_size: images per batch of this process.
        seed: random seed of the order and the flips.
        rank: index of this process.
        replicas: number of processes (world size).
        workers: decoding processes. 0 decodes in the reading thread.
        pin: return images in pinned memory.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        replicas: int = 1,
        workers: int = 0,
        pin: bool = False,
    ):
        self.dataset, self.batch_size = dataset, batch_size
        self._order = ShardOrder(dataset, seed, rank, replicas)
        self._workers = workers if CAN_FORK else 0
        self._thread = ReadingThread(pin)
        self._ahead: deque[Future] = deque()
        self._begin(0, 0)

    def _begin(self, epoch: int, consumed: int) -> None:
        self._position = (epoch, consumed)  # after the last batch returned by `next`
        self._pool: DecodePool | None = None
        if self._workers > 0:
            function, shape = self.dataset.decode_into, self.dataset.image_shape
            self._pool = DecodePool(function, shape, self.batch_size, self._workers, AHEAD)
        self._batches = self._read(epoch, consumed)

    def _stream(self, epoch: int, consumed: int) -> Iterator[tuple]:
        """Yield (sample, flips, position after it) endlessly."""
        dataset, order = self.dataset, self._order
        while True:
            random = np.random.RandomState([order.seed, epoch, order.rank + 1, 1])
            random.randint(2, size=[consumed, 2])  # the flips of samples already consumed
            number, any_left = consumed, False
            for sample in order.samples(epoch, consumed):
                number += 1
                # Drawn for lost samples too, as on a resume, which does not know which were lost.
                flips = (random.randint(2, size=2) > 0) & [dataset.xflip, dataset.yflip]
                if sample is not None:
                    any_left = True
                    yield sample, flips, (epoch, number)
            # After a resume nothing may be left of the epoch; that is no error.
            if not any_left and consumed == 0:
                raise ValueError(
                    f"data: {dataset.path} has no samples for process {order.rank} of "
                    f"{order.replicas}; use fewer processes or more data"
                )
            epoch, consumed = epoch + 1, 0

    def _decoded(self, epoch: int, consumed: int) -> Iterator[tuple]:
        """Yield (image, sample, position) of usable samples."""
        for parts, rows, reasons in self._groups(self._stream(epoch, consumed)):
            for (sample, flips, position), row, reason in zip(parts, rows, reasons, strict=True):
                if self.dataset.usable(sample, reason):
                    yield flip(row, *flips), sample, position

    def _groups(self, stream: Iterator[tuple]) -> Iterator[tuple]:
        """Decode the stream in batches: yield its entries, images, and reasons for failures."""
        if self._pool is None:
            while True:
                parts = list(islice(stream, self.batch_size))
                rows = np.empty([self.batch_size, *self.dataset.image_shape], dtype=np.uint8)
                yield parts, rows, self.dataset.decode_into([p[0].image for p in parts], rows)
        sent: deque[tuple[int, list]] = deque()
        slot = 0
        while True:
            while len(sent) < AHEAD:
                parts = list(islice(stream, self.batch_size))
                self._pool.send(slot, [p[0].image for p in parts])
                sent.append((slot, parts))
                slot = (slot + 1) % AHEAD
            used, parts = sent.popleft()
            rows, replies = self._pool.collect(used)
            # A copy, since the workers fill the slot again while its images are still in use.
            yield parts, rows.copy(), list(chain.from_iterable(replies))

    def _read(self, epoch: int, consumed: int) -> Generator[tuple, None, None]:
        """Yield batches (images, labels, position after the batch)."""
        images = self._decoded(epoch, consumed)
        while True:
            rows, samples, positions = zip(*islice(images, self.batch_size), strict=True)
            pixels = self._thread.own(torch.from_numpy(np.stack(rows)), shared=False)
            yield pixels, self.dataset.label_rows(list(samples)), positions[-1]

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            self._ahead.append(self._thread.submit(next, self._batches))

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next images uint8 `[B, C, H, W]` and labels float32 `[B, label_dim]`.

        Raises ValueError for unreadable shards and labels that do not fit, RuntimeError if a
        worker died.
        """
        self._fill()
        # The position moves only with a batch that was read: `state` must not skip a failed one.
        images, labels, position = self._ahead[0].result()
        self._ahead.popleft()
        self._position = position
        self._fill()
        return images, labels

    def state(self) -> dict:
        """Return this rank's position as plain numbers, for `load_state`."""
        epoch, consumed = self._position
        return {"epoch": epoch, "consumed": consumed, "replicas": self._order.replicas}

    def load_state(self, state: dict) -> None:
        """Resume exactly at `state`, or nearby if the number of processes has changed."""
        self._end()
        consumed = state["consumed"] * state["replicas"] // self._order.replicas
        self._begin(state["epoch"], consumed)

    def _end(self) -> None:
        """Stop reading and discard prefetched batches."""
        if self._pool is not None:
            self._pool.close()  # a thread waiting for it gets an error at once
        for future in self._ahead:
            if not future.cancel():
                future.exception()
        self._ahead.clear()
        self._batches.close()

    def close(self) -> None:
        """End the reading thread and the workers."""
        self._end()
        self._thread.close()
