"""Mixing of styles, and truncation towards the nearest of several centres."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import nn

from guidance.latents import map_latents, seed_latents
from sg3.errors import UserError

CENTRE_SAMPLES = 10_000


def mix_styles(ws: torch.Tensor, other: torch.Tensor, rows: Collection[int]) -> torch.Tensor:
    """`ws` `[N, num_ws, w_dim]` with `rows` from `other` `[N or 1, num_ws, w_dim]`."""
    wrong = [row for row in rows if not 0 <= row < ws.shape[1]]
    if wrong or not rows:
        raise UserError(f"mix: got rows {sorted(rows)}, expected some of 0 to {ws.shape[1] - 1}")
    mixed = ws.clone()
    index = sorted(rows)
    mixed[:, index] = other[:, index].to(ws)
    return mixed


def centres_of(
    G: nn.Module, count: int, seed: int = 0, class_index: int | None = None
) -> torch.Tensor:
    """`count` centres of W `[count, w_dim]` by k-means, the most crowded first; 1: the mean.

    Domains with several kinds of pictures have an average that is no picture of any of them
    (arXiv 2202.12211). Raises UserError for a `count` outside 1 … 1000.
    """
    if not 1 <= count <= 1000:
        raise UserError(f"centres: got {count}, expected 1 to 1000")
    w = map_latents(G, seed_latents(seed, CENTRE_SAMPLES, G.z_dim), class_index)[:, 0]
    points = w.double().cpu().numpy()
    centres, labels = kmeans2(points, count, iter=20, minit="++", seed=seed)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return torch.from_numpy(centres[order]).to(w)


def truncate(
    ws: torch.Tensor, centres: torch.Tensor, psi: float, cutoff: int | None = None
) -> torch.Tensor:
    """Pull `ws` `[N, num_ws, w_dim]` towards the nearest of `centres` `[K, w_dim]`.

    `psi` 1 leaves them, 0 gives the centre; only the first `cutoff` rows. The nearest is that of
    the mean of the rows, so all rows of a latent go to the same one.
    """
    nearest = centres[torch.cdist(ws.mean(dim=1), centres).argmin(dim=1)]  # [N, w_dim]
    pulled = ws.clone()
    pulled[:, :cutoff] = nearest[:, None].lerp(ws[:, :cutoff], psi)
    return pulled
