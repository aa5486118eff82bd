"""Generated and real images for metrics, in batches, divided among processes.

Every source yields `(rows, images)`: global indices of the samples, and uint8 `[B, C, H, W]`.
Sample `i` depends on the seed alone, not on the batch size or the number of processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from sg3.data.base import TrainingImages
from sg3.devices import seeded

Batches = Iterator[tuple[np.ndarray, torch.Tensor]]

# Pixels per generator pass: 4 images at 512² and above (REFERENCE.md §6.1).
PASS_PIXELS = 1 << 20
MIN_IMAGES, MAX_IMAGES = 4, 64  # per pass
READERS = min(4, os.cpu_count() or 1)


def images_per_pass(height: int, width: int) -> int:
    """Return the number of images per generator pass; fixed, because a pass shares a noise seed."""
    return min(max(PASS_PIXELS // (height * width), MIN_IMAGES), MAX_IMAGES)


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Convert `[N, C, H, W]` in [−1, 1] to uint8 with the official rounding (REFERENCE.md §1.1)."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def sample_labels(
    G: Any, dataset: TrainingImages | None, random: np.random.RandomState, count: int
) -> torch.Tensor:
    """Return labels `[count, c_dim]` of random items of `dataset`, for networks that take them."""
    if not G.c_dim:
        return torch.zeros([count, 0])
    assert dataset is not None  # `evaluate` checks it
    return dataset.random_labels(random, count)


@torch.no_grad()
def generated_images(
    G: Any,
    dataset: TrainingImages | None,
    num: int,
    seed: int = 0,
    rank: int = 0,
    size: int = 1,
) -> Batches:
    """Yield this process's part of `num` generated images, with truncation 1 and random noise.

    Args:
        G: the generator.
        dataset: source of labels; None for networks without labels.
        num: number of images over all processes.
        seed: random seed.
        rank: index of this process.
        size: number of processes.

    torch's global random state is left unchanged.
    """
    device = next(G.parameters()).device
    together = images_per_pass(G.img_height, G.img_width)
    for part in range(rank, -(-num // together), size):
        rows = np.arange(part * together, min((part + 1) * together, num))
        random = np.random.RandomState([seed, part])
        # Also of the last group all latents are drawn, so image i does not depend on `num`.
        z = random.randn(together, G.z_dim).astype(np.float32)[: len(rows)]
        c = sample_labels(G, dataset, random, together)[: len(rows)].to(device)
        with seeded(device, int(random.randint(1 << 31))):
            images = G(z=torch.from_numpy(z).to(device), c=c)
        yield rows, to_bytes(images)


def real_images(
    dataset: TrainingImages, num: int, batch: int, rank: int = 0, size: int = 1
) -> Batches:
    """Yield this process's part of the first `num` items of `dataset`, prefetched by threads."""
    own_rows = np.arange(rank, num, size)
    batches = iter(np.split(own_rows, range(batch, len(own_rows), batch)))
    with ThreadPoolExecutor(READERS) as pool:
        ahead: deque[tuple[np.ndarray, Future[torch.Tensor]]] = deque()
        while True:
            # Limited, or the readers would decode the whole dataset into memory.
            while len(ahead) <= READERS and (rows := next(batches, None)) is not None:
                ahead.append((rows, pool.submit(dataset.images, rows)))
            if not ahead:
                return
            rows, images = ahead.popleft()
            yield rows, images.result()


def in_batches(source: Batches, batch: int) -> Batches:
    """Yield the same samples in batches of `batch`; the last one may be smaller."""
    rows: list[np.ndarray] = []
    images: list[torch.Tensor] = []
    held = 0
    for some_rows, some_images in source:
        rows.append(some_rows)
        images.append(some_images)
        held += len(some_rows)
        if held >= batch:
            all_rows, all_images = np.concatenate(rows), torch.cat(images)
            whole = held // batch * batch
            yield from zip(
                np.split(all_rows[:whole], whole // batch), all_images[:whole].split(batch),
                strict=True,
            )  # fmt: skip
            rows, images, held = [all_rows[whole:]], [all_images[whole:]], held - whole
    if held:
        yield np.concatenate(rows), torch.cat(images)
