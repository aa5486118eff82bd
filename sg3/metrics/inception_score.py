"""Inception score: confident classes per image, diverse classes overall (REFERENCE.md §6.2)."""

from __future__ import annotations

import torch

NUM_SPLITS = 10


def inception_score(
    probabilities: torch.Tensor, num_splits: int = NUM_SPLITS
) -> tuple[float, float]:
    """Return mean and standard deviation of the score over consecutive splits.

    The score of a split is the exponential of the mean KL divergence of each image's class
    probabilities from their average.

    Args:
        probabilities: class probabilities `[N, classes]`.
        num_splits: number of splits.

    Raises ValueError for fewer images than splits.
    """
    if len(probabilities) < num_splits:
        raise ValueError(
            f"metrics: is got {len(probabilities)} images, expected at least {num_splits}"
        )
    scores = []
    for part in probabilities.to(torch.float64).tensor_split(num_splits):
        mean = part.mean(dim=0, keepdim=True)
        # xlogy, so that a probability of 0 contributes 0, not NaN.
        divergence = torch.special.xlogy(part, part) - torch.special.xlogy(part, mean)
        scores.append(divergence.sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))
