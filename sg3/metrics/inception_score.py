"""Inception score: clear classes in each picture, many over all (REFERENCE.md §6.2)."""

from __future__ import annotations

import torch

NUM_SPLITS = 10


def inception_score(
    probabilities: torch.Tensor, num_splits: int = NUM_SPLITS
) -> tuple[float, float]:
    """Mean and standard deviation over consecutive splits of `probabilities` `[N, classes]`.

    Of each split: exp of the mean divergence of a picture's classes from the average. Raises
    ValueError for fewer pictures than splits.
    """
    if len(probabilities) < num_splits:
        raise ValueError(f"is: got {len(probabilities)} pictures, expected at least {num_splits}")
    scores = []
    for part in probabilities.to(torch.float64).tensor_split(num_splits):
        mean = part.mean(dim=0, keepdim=True)
        divergence = torch.special.xlogy(part, part) - torch.special.xlogy(part, mean)
        scores.append(divergence.sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))
