"""Improved precision and recall (arXiv 1904.06991; REFERENCE.md §6.2)."""

from __future__ import annotations

import torch

TILE = 4096  # rows and columns of the distance matrix computed at a time

Tiles = list[torch.Tensor]
Device = str | torch.device


def precision_recall(
    real: torch.Tensor,
    generated: torch.Tensor,
    neighbour: int = 3,
    tile: int = TILE,
    device: str | torch.device = "cpu",
) -> tuple[float, float]:
    """Return precision and recall.

    The manifold of a set is the union of spheres around its points, each reaching to the
    `neighbour`-th nearest other point. Precision is the fraction of `generated` in the manifold
    of `real`, recall the reverse. As in the official implementation, features and distances are
    rounded to half precision.

    Args:
        real: features `[N, D]`.
        generated: features `[M, D]`.
        neighbour: which nearest neighbour sets the radius.
        tile: rows and columns of the distance matrix computed at a time.
        device: where to compute it.

    Raises ValueError for features of different dimensions, or at most `neighbour` points.
    """
    minimum = neighbour + 1
    if real.shape[1:] != generated.shape[1:] or min(len(real), len(generated)) < minimum:
        raise ValueError(
            f"features: got shapes {list(real.shape)} and {list(generated.shape)}, expected "
            f"[N, D] and [M, D] with at least {minimum} vectors each"
        )
    real_tiles, generated_tiles = (
        [part.to(torch.float16) for part in features.split(tile)] for features in (real, generated)
    )

    def inside(manifold: Tiles, probes: Tiles) -> float:
        return _fraction_inside(manifold, _radii(manifold, neighbour, device), probes, device)

    return inside(real_tiles, generated_tiles), inside(generated_tiles, real_tiles)


def _distances(a: torch.Tensor, b: torch.Tensor, device: Device) -> torch.Tensor:
    """Return distances `[A, B]`, computed in float32 and rounded to float16."""
    a, b = (x.to(device).to(torch.float32) for x in (a, b))
    return torch.cdist(a, b).to(torch.float16).to(torch.float32)


def _radii(points: Tiles, neighbour: int, device: Device) -> Tiles:
    """Return the distance of each point to its `neighbour`-th nearest other point, in tiles."""
    radii = []
    for rows in points:
        nearest = torch.zeros([len(rows), 0], device=device)
        for columns in points:
            both = torch.cat([nearest, _distances(rows, columns, device)], dim=1)
            # Only the nearest so far are kept, so memory does not grow with the number of tiles.
            nearest = both.topk(min(neighbour + 1, both.shape[1]), largest=False).values
        # The nearest is the point itself, so this is the (neighbour + 1)-th.
        radii.append(nearest.max(dim=1).values)
    return radii


def _fraction_inside(manifold: Tiles, radii: Tiles, probes: Tiles, device: Device) -> float:
    """Return the fraction of probes that lie in the manifold."""
    inside = 0
    for rows in probes:
        found = torch.zeros(len(rows), dtype=torch.bool, device=device)
        for points, reach in zip(manifold, radii, strict=True):
            found |= (_distances(rows, points, device) <= reach).any(dim=1)
        inside += int(found.sum())
    return inside / sum(map(len, probes))
