"""Improved precision and recall: is a picture within the other set's manifold? (REFERENCE.md §6.2)"""

from __future__ import annotations

import torch

TILE = 4096  # rows and columns of distances in memory at a time


def precision_recall(
    real: torch.Tensor,
    generated: torch.Tensor,
    neighbour: int = 3,
    tile: int = TILE,
    device: str | torch.device = "cpu",
) -> tuple[float, float]:
    """Precision and recall of features `[N, D]` and `[M, D]`.

    A set's manifold is the union of spheres around its points that reach to the `neighbour`-th
    nearest other point. Precision is the share of `generated` within the manifold of `real`,
    recall the reverse. As published, features and distances are rounded to half precision.
    Distances are computed on `device`, `tile`² of them in memory. Raises ValueError for too few
    points.
    """
    least = neighbour + 1
    if real.shape[1:] != generated.shape[1:] or min(len(real), len(generated)) < least:
        raise ValueError(
            f"features: got shapes {list(real.shape)} and {list(generated.shape)}, expected "
            f"[N, D] and [M, D] with at least {least} vectors each"
        )
    real, generated = (
        [part.to(torch.float16) for part in features.split(tile)] for features in (real, generated)
    )
    shares = [
        _share_within(manifold, _radii(manifold, neighbour, device), probes, device)
        for manifold, probes in ((real, generated), (generated, real))
    ]
    return shares[0], shares[1]


def _distances(a: torch.Tensor, b: torch.Tensor, device) -> torch.Tensor:
    """`[A, B]`, rounded where half precision rounds, computed in single."""
    a, b = (x.to(device).to(torch.float32) for x in (a, b))
    return torch.cdist(a, b).to(torch.float16).to(torch.float32)


def _radii(points: list[torch.Tensor], neighbour: int, device) -> list[torch.Tensor]:
    """Distance of each point to its `neighbour`-th nearest other one, tile by tile."""
    radii = []
    for rows in points:
        nearest = torch.zeros([len(rows), 0], device=device)
        for columns in points:
            both = torch.cat([nearest, _distances(rows, columns, device)], dim=1)
            nearest = both.topk(min(neighbour + 1, both.shape[1]), largest=False).values
        radii.append(nearest.max(dim=1).values)  # with itself: the (neighbour + 1)-th
    return radii


def _share_within(
    manifold: list[torch.Tensor], radii: list[torch.Tensor], probes: list[torch.Tensor], device
) -> float:
    inside = 0
    for rows in probes:
        found = torch.zeros(len(rows), dtype=torch.bool, device=device)
        for points, reach in zip(manifold, radii, strict=True):
            found |= (_distances(rows, points, device) <= reach).any(dim=1)
        inside += int(found.sum())
    return inside / sum(map(len, probes))
