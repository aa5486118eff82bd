"""CMMD: squared maximum mean discrepancy of CLIP embeddings with a Gaussian kernel.

Jayasumana et al., "Rethinking FID" (arXiv 2401.09603): unit vectors, σ = 10, times 1000.
"""

from __future__ import annotations

import torch

from sg3.devices import precise

SIGMA = 10.0
SCALE = 1000.0
TILE = 4096  # rows and columns of the kernel matrix computed at a time


def gaussian_discrepancy(
    real: torch.Tensor,
    generated: torch.Tensor,
    tile: int = TILE,
    device: str | torch.device = "cpu",
) -> float:
    """Return the squared MMD with a Gaussian kernel, times 1000; 0 for equal sets.

    The means run over all pairs, including each vector with itself. So the result is never
    negative, and exceeds the unbiased estimate by at most 20·(1/N + 1/M).

    Args:
        real: features `[N, D]`; normalized to unit length here.
        generated: features `[M, D]`; normalized too.
        tile: rows and columns of the kernel matrix computed at a time.
        device: where to compute it.

    Raises ValueError for features of different dimensions.
    """
    if real.shape[1:] != generated.shape[1:] or min(len(real), len(generated)) < 2:
        raise ValueError(
            f"features: got shapes {list(real.shape)} and {list(generated.shape)}, expected "
            "[N, D] and [M, D] with at least 2 vectors each"
        )
    x, y = (torch.nn.functional.normalize(precise(f), dim=1) for f in (real, generated))

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        total = sum(
            float(_kernel(rows.to(device), columns.to(device)).sum())
            for rows in a.split(tile)
            for columns in b.split(tile)
        )
        return total / (len(a) * len(b))

    return max(SCALE * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)), 0.0)


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return exp(−|a − b|²/2σ²) − 1 of all pairs of unit vectors, accurate near 0.

    The 1 cancels in the sum of the three means.
    """
    return torch.expm1((a @ b.T - 1) / SIGMA**2)
