"""Kernel Inception distance: unbiased squared MMD with a cubic kernel (REFERENCE.md §6.2)."""

from __future__ import annotations

import numpy as np
import torch

NUM_SUBSETS = 100
MAX_SUBSET = 1000


def kernel_distance(
    real: torch.Tensor,
    generated: torch.Tensor,
    num_subsets: int = NUM_SUBSETS,
    max_subset: int = MAX_SUBSET,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> float:
    """Return the mean over random subsets of an unbiased estimate of the squared MMD.

    Its expectation is 0 for equal distributions, so it can be negative.

    Args:
        real: features `[N, D]`.
        generated: features `[M, D]`.
        num_subsets: number of subsets.
        max_subset: maximum number of vectors per subset.
        seed: random seed of the subsets.
        device: where to compute.

    Raises ValueError for features of different dimensions, or fewer than 2 vectors.
    """
    if real.shape[1:] != generated.shape[1:] or min(len(real), len(generated)) < 2:
        raise ValueError(
            f"features: got shapes {list(real.shape)} and {list(generated.shape)}, expected "
            "[N, D] and [M, D] with at least 2 vectors each"
        )
    random = np.random.RandomState(seed)
    size = min(len(real), len(generated), max_subset)

    def subset(features: torch.Tensor) -> torch.Tensor:
        rows = random.choice(len(features), size, replace=False)
        return features[torch.from_numpy(rows)].to(device)

    total = 0.0
    for _ in range(num_subsets):
        x, y = subset(generated), subset(real)
        # Without the diagonal, pairs of a vector with itself, the estimate is unbiased.
        own = sum(k.sum() - k.diagonal().sum() for k in (_kernel(x, x), _kernel(y, y)))
        total += float(own / (size * (size - 1)) - 2 * _kernel(x, y).sum() / size**2)
    return total / num_subsets


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return (a·b/D + 1)³ of all pairs, float64 `[A, B]`."""
    # Float64 from here on: the estimate is a small difference of large sums.
    return ((a @ b.T).to(torch.float64) / a.shape[1] + 1) ** 3
