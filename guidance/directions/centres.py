"""Style mixing, and truncation towards the nearest of several centres of W."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import nn

from guidance.generator import generator_of
from guidance.latents import map_latents, seed_latents
from sg3.checkpoints import Networks
from sg3.errors import UserError
from sg3.settings import ClassLabel

CENTRE_SAMPLES = 10_000


def mix_styles(ws: torch.Tensor, other: torch.Tensor, rows: Collection[int]) -> torch.Tensor:
    """`ws` `[N, num_ws, w_dim]` with `rows` taken from `other` `[N or 1, num_ws, w_dim]`.

    Raises ValueError for no rows, or rows out of range.
    """
    wrong = [row for row in rows if not 0 <= row < ws.shape[1]]
    if wrong or not rows:
        raise UserError(f"rows: got {sorted(rows)}, expected some of 0 to {ws.shape[1] - 1}")
    mixed = ws.clone()
    index = sorted(rows)
    mixed[:, index] = other[:, index].to(ws)
    return mixed


def centres_of(
    network: Networks | nn.Module, count: int, seed: int = 0, class_index: ClassLabel | None = None
) -> torch.Tensor:
    """Centres of W `[count, w_dim]` by k-means, those with most latents first; 1 is the mean.

    The mean of a dataset with several kinds of images is none of them (arXiv 2202.12211).

    Args:
        network: networks of `sg3.load`, or a generator.
        count: number of centres, 1 to 1000.
        seed: random seed.
        class_index: class of a conditional network.

    Raises ValueError for a `count` out of range.
    """
    if not 1 <= count <= 1000:
        raise UserError(f"centres: got {count}, expected 1 to 1000")
    G = generator_of(network)
    w = map_latents(G, seed_latents(seed, CENTRE_SAMPLES, G.z_dim), class_index)[:, 0]
    points = w.cpu().double().numpy()
    centres, labels = kmeans2(points, count, iter=20, minit="++", seed=seed)
    # k-means may leave clusters empty, even the last ones: hence `minlength`.
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return torch.from_numpy(centres[order]).to(w)


def truncate(
    ws: torch.Tensor, centres: torch.Tensor, psi: float, cutoff: int | None = None
) -> torch.Tensor:
    """Truncate `ws` `[N, num_ws, w_dim]` towards the nearest of `centres` `[K, w_dim]`.

    The nearest centre is that of the mean of the rows, so all rows of a latent use the same one.

    Args:
        ws: latents.
        centres: for example of `centres_of`.
        psi: 1 does not truncate, 0 returns the centre.
        cutoff: number of rows that are truncated; None for all.
    """
    nearest = centres[torch.cdist(ws.mean(dim=1), centres).argmin(dim=1)]  # [N, w_dim]
    pulled = ws.clone()
    pulled[:, :cutoff] = nearest[:, None].lerp(ws[:, :cutoff], psi)
    return pulled
