"""Distances between unit embeddings, and between changes of them."""

from __future__ import annotations

import torch


def spherical_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`2·asin(‖x − y‖/2)²` over the last axis, inputs of unit norm (REFERENCE.md §8.1).

    Half the squared angle: its gradient does not fade at small angles as that of the cosine
    does, nor grow at large ones. In [0, π²/2].
    """
    # The root and the arcsine have infinite slopes at distance 0 and 2: keep clear of both ends.
    chord = (x - y).square().sum(dim=-1).clamp(1e-12, 4 - 1e-6).sqrt()
    return 2 * (chord / 2).asin().square()


def cosine_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`1 − x·y` over the last axis, inputs of unit norm. In [0, 2]."""
    return 1 - (x * y).sum(dim=-1)


def directional_distance(
    change: torch.Tensor, wanted: torch.Tensor, least: float = 0.02
) -> torch.Tensor:
    """`1 − cos(change, wanted)` over the last axis (REFERENCE.md §8.6): the direction counts, not how far.

    A change far shorter than `least` counts as none (1): where a picture has not moved yet the
    cosine has no value, and its slope no bound.
    """
    length = (change.square().sum(dim=-1) + least**2).sqrt()
    unit = wanted / wanted.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return 1 - (change * unit).sum(dim=-1) / length


DISTANCES = {"spherical": spherical_distance, "cosine": cosine_distance}
