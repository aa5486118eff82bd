"""Training data: datasets, samplers, loaders and dataset preparation."""

from __future__ import annotations

from sg3.data.dataset import ImageDataset
from sg3.data.loader import BatchLoader
from sg3.data.sampler import ShuffleSampler
from sg3.data.shard_loader import ShardLoader
from sg3.data.shards import ShardDataset, write_shards
from sg3.data.tar_stream import is_shards

__all__ = [
    "BatchLoader",
    "ImageDataset",
    "ShardDataset",
    "ShardLoader",
    "ShuffleSampler",
    "open_dataset",
    "open_loader",
    "write_shards",
]


def open_dataset(
    path: str,
    use_labels: bool = False,
    max_size: int | None = None,
    xflip: bool = False,
    yflip: bool = False,
    random_seed: int = 0,
    cache: str = "auto",
) -> ImageDataset | ShardDataset:
    """Open a folder, a zip or tar shards as a dataset.

    Args:
        path: folder or `.zip` of images; a folder, brace pattern or URL of tar shards.
        use_labels: read labels; otherwise the label dimension is 0.
        max_size: maximum number of images, chosen with `random_seed`. None: all.
        xflip: also show horizontally flipped images.
        yflip: also show vertically flipped images.
        random_seed: random seed.
        cache: 'auto', 'ram' or 'none'; see `ImageDataset`.

    Raises ValueError for data that cannot be trained on.
    """
    if not is_shards(path):
        return ImageDataset(path, use_labels, max_size, xflip, None, random_seed, cache, yflip)
    if max_size is not None:
        raise ValueError(
            f"max_size: got {max_size}, but tar shards are read as a stream; name fewer shards"
        )
    return ShardDataset(path, use_labels, xflip, yflip, random_seed)


def open_loader(
    dataset: ImageDataset | ShardDataset,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    replicas: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> BatchLoader | ShardLoader:
    """Return a loader of infinite batches for one process.

    Args:
        dataset: see `open_dataset`.
        batch_size: images per batch of this process.
        seed: random seed of the order.
        rank: index of this process.
        replicas: number of processes (world size).
        workers: decoding processes. 0 decodes in a thread, which is also what cached images get.
            The batches do not depend on it.
        pin: return pinned memory if there is a GPU.
    """
    if isinstance(dataset, ShardDataset):
        return ShardLoader(dataset, batch_size, seed, rank, replicas, workers, pin)
    sampler = ShuffleSampler(len(dataset), seed, rank, replicas)
    return BatchLoader(dataset, sampler, batch_size, workers, pin)
