"""Training images: reading them, sampling them in order, preparing them."""

from sg3.data.dataset import ImageDataset
from sg3.data.loader import BatchLoader
from sg3.data.sampler import ShuffleSampler

__all__ = ["BatchLoader", "ImageDataset", "ShuffleSampler"]
