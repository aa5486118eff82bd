"""Training images: reading them, sampling them in order, preparing them."""

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
    """The training images at `path`: a folder or zip, or tar shards (folder, pattern or URL).

    Raises ValueError, in one line, for data that cannot be trained on.
    """
    if not is_shards(path):
        return ImageDataset(path, use_labels, max_size, xflip, None, random_seed, cache, yflip)
    if max_size is not None:
        raise ValueError(
            f"--max-images: got {max_size}, but tar shards are read as a stream; name fewer shards"
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
    """Endless batches for one of `replicas` processes, `batch_size` for each of them.

    `workers` decoding processes (0: a thread, which is also what images in memory get) do not
    change what comes; `pin` hands out pinned memory where there is a GPU.
    """
    if isinstance(dataset, ShardDataset):
        return ShardLoader(dataset, batch_size, seed, rank, replicas, workers, pin)
    sampler = ShuffleSampler(len(dataset), seed, rank, replicas)
    return BatchLoader(dataset, sampler, batch_size, workers, pin)
