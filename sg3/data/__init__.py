"""Training images: reading them, sampling them in order, preparing them."""

from __future__ import annotations

from sg3.data.dataset import ImageDataset
from sg3.data.loader import BatchLoader
from sg3.data.sampler import ShuffleSampler

__all__ = ["BatchLoader", "ImageDataset", "ShuffleSampler", "open_dataset", "open_loader"]


def open_dataset(
    path: str,
    use_labels: bool = False,
    max_size: int | None = None,
    xflip: bool = False,
    yflip: bool = False,
    random_seed: int = 0,
    cache: str = "auto",
) -> ImageDataset:
    """The training images at `path`: a folder or zip (`ImageDataset`).

    Raises ValueError, in one line, for data that cannot be trained on.
    """
    return ImageDataset(path, use_labels, max_size, xflip, None, random_seed, cache, yflip)


def open_loader(
    dataset: ImageDataset,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    replicas: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> BatchLoader:
    """Endless batches for one of `replicas` processes, `batch_size` for each of them.

    `workers` decoding processes (0: a thread, which is also what images in memory get) do not
    change what comes; `pin` hands out pinned memory where there is a GPU.
    """
    sampler = ShuffleSampler(len(dataset), seed, rank, replicas)
    return BatchLoader(dataset, sampler, batch_size, workers, pin)
