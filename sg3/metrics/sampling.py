"""Pictures to measure: generated ones and real ones, each process its share, few at a time.

Every source yields `(rows, images)`: which samples these are of all processes' together, and
uint8 `[B, C, H, W]`. What sample `i` is depends on the seed alone, not on batches or processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from sg3.data.dataset import TrainingImages

Batches = Iterator[tuple[np.ndarray, torch.Tensor]]

PASS_PIXELS = (
    1 << 20
)  # that a generator draws at a time: 4 pictures at 512² and above (REFERENCE.md §6.1)
FEWEST, MOST = 4, 64
READERS = min(4, os.cpu_count() or 1)


def pictures_per_pass(height: int, width: int) -> int:
    """Pictures that are drawn together. Fixed, because they share a start of the noise."""
    return min(max(PASS_PIXELS // (height * width), FEWEST), MOST)


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """float `[N, C, H, W]` in [−1, 1] → uint8 with the official rounding (REFERENCE.md §1.1)."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def generated_images(G, dataset, num: int, seed: int = 0, rank: int = 0, size: int = 1) -> Batches:
    """This process's share of `num` pictures of `G`, truncation 1, with random noise.

    Labels are those of random items of `dataset` (None for a network without labels). Leaves
    torch's own random state alone.
    """
    device = next(G.parameters()).device
    together = pictures_per_pass(G.img_height, G.img_width)
    cuda = [device] if device.type == "cuda" else []
    for part in range(rank, -(-num // together), size):
        rows = np.arange(part * together, min((part + 1) * together, num))
        random = np.random.RandomState([seed, part])
        z = random.randn(together, G.z_dim).astype(np.float32)[: len(rows)]
        c = torch.zeros([together, 0])
        if G.c_dim:
            c = dataset.random_labels(random, together)
        c = c[: len(rows)].to(device)
        with torch.random.fork_rng(cuda):
            torch.manual_seed(int(random.randint(1 << 31)))
            images = G(z=torch.from_numpy(z).to(device), c=c)
        yield rows, to_bytes(images)


def real_images(
    dataset: TrainingImages, num: int, batch: int, rank: int = 0, size: int = 1
) -> Batches:
    """This process's share of the first `num` items of `dataset`, read ahead by threads."""
    mine = np.arange(rank, num, size)
    batches = iter(np.split(mine, range(batch, len(mine), batch)))
    with ThreadPoolExecutor(READERS) as pool:
        ahead: deque = deque()
        while True:
            while len(ahead) <= READERS and (rows := next(batches, None)) is not None:
                ahead.append((rows, pool.submit(dataset.images, rows)))
            if not ahead:
                return
            rows, images = ahead.popleft()
            yield rows, images.result()


def in_batches(source: Batches, batch: int) -> Batches:
    """The same samples, `batch` at a time."""
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
