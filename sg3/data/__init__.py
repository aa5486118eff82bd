"""Training images: reading them, sampling them in order, preparing them."""

from sg3.data.dataset import ImageDataset
from sg3.data.loader import BatchLoader
from sg3.data.sampler import ShuffleSampler

__all__ = ["BatchLoader", "ImageDataset", "ShuffleSampler"]


def open_dataset(
    path, use_labels=False, max_size=None, xflip=False, yflip=False, random_seed=0, cache="auto"
):
    d = ImageDataset(
        path,
        use_labels=use_labels,
        max_size=max_size,
        xflip=xflip,
        random_seed=random_seed,
        cache=cache,
    )
    d.num_skipped, d.skipped = 0, []

    def random_labels(random, count):
        import torch

        if d.label_dim == 0:
            return torch.zeros([count, 0])
        return d.labels(random.randint(len(d), size=count))

    d.random_labels = random_labels
    return d


def open_loader(dataset, batch_size, seed=0, rank=0, replicas=1, workers=0, pin=False):
    return BatchLoader(
        dataset, ShuffleSampler(len(dataset), seed=seed, rank=rank, replicas=replicas), batch_size
    )
