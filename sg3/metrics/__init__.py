"""How far generated images are from real ones."""

from sg3.metrics.frechet import frechet_distance

__all__ = ["frechet_distance"]
