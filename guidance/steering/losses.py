"""Distances between unit embeddings, and between changes of embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch


def spherical_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`2·asin(‖x − y‖/2)²` over the last axis, for unit vectors (REFERENCE.md §8.1).

    Half the squared angle, in [0, π²/2]. Its gradient neither vanishes at small angles, as that of
    the cosine distance does, nor grows at large ones.
    """
    # The square root and the arcsine have infinite slopes at chords of 0 and 2, so stay clear of
    # both ends.
    chord = (x - y).square().sum(dim=-1).clamp(1e-12, 4 - 1e-6).sqrt()
    return 2 * (chord / 2).asin().square()


def cosine_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`1 − x·y` over the last axis, for unit vectors. In [0, 2]."""
    return 1 - (x * y).sum(dim=-1)


def directional_distance(
    change: torch.Tensor, wanted: torch.Tensor, min_change: float = 0.02
) -> torch.Tensor:
    """`1 − cos(change, wanted)` over the last axis (REFERENCE.md §8.6).

    A change much shorter than `min_change` counts as none (distance 1): the cosine of an image that
    has not changed yet is undefined and its gradient unbounded.
    """
    length = (change.square().sum(dim=-1) + min_change**2).sqrt()
    unit = wanted / wanted.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return 1 - (change * unit).sum(dim=-1) / length


DISTANCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "spherical": spherical_distance,
    "cosine": cosine_distance,
}
