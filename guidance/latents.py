"""Statistics of W and coordinates in which one step means the same in every direction."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

#: Of the files that hold latents.
LATENT_FORMAT = "sg3-latent"
STATISTICS_SAMPLES = 10_000
#: Components with less than this share of the largest variance are rounding, not directions.
SMALLEST_VARIANCE = 1e-6

_cache: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class LatentStatistics:
    """Of W: `mean` and `std` `[w_dim]`, principal `components` `[K, w_dim]` (orthonormal rows,
    largest first) and their `variances` `[K]`."""

    mean: torch.Tensor
    std: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor

    def whiten(self, ws: torch.Tensor) -> torch.Tensor:
        """`ws` `[..., w_dim]` → coordinates `[..., K]` with unit variance over W."""
        return (ws - self.mean) @ self.components.T / self.variances.sqrt()

    def sigma(self, ws: torch.Tensor) -> torch.Tensor:
        """Distance of `ws` `[N, num_ws, w_dim]` from the mean, in standard deviations `[N]`.

        The root mean square of the whitened coordinates: the Mahalanobis distance in the span of
        the components over √K. Samples of W lie near 1, the mean at 0.
        """
        return self.whiten(ws).square().mean(dim=(1, 2)).sqrt()


@torch.no_grad()
def latent_statistics(
    G: nn.Module, components: int = 48, class_index: int | None = None
) -> LatentStatistics:
    """Statistics of W from 10 000 latents, psi 1 (REFERENCE.md §8.1), with at most `components` axes.

    Computed once per network and label and kept as long as the network lives; computed anew
    when the weights of its mapping change. Raises ValueError for `components` < 1.
    """
    if components < 1:
        raise ValueError(f"components: got {components}, expected at least 1")
    state = [*G.mapping.parameters(), *G.mapping.buffers()]
    version = tuple((t.data_ptr(), t._version) for t in state)
    known = _cache.setdefault(G, {})
    found = known.get(class_index)
    if found is None or found[0] != version:
        z = torch.from_numpy(np.random.RandomState(0).randn(STATISTICS_SAMPLES, G.z_dim))
        w = map_latents(G, z, class_index)[:, 0].double().cpu()
        mean = w.mean(dim=0)
        variances, vectors = torch.linalg.eigh((w - mean).T @ (w - mean) / (len(w) - 1))
        variances, vectors = variances.flip(0), vectors.flip(1).T.contiguous()
        keep = max(int((variances > SMALLEST_VARIANCE * variances[0]).sum()), 1)
        everything = (mean, w.std(dim=0), vectors[:keep], variances[:keep].clamp_min(1e-12))
        found = known[class_index] = (version, everything)
    mean, std, vectors, variances = (t.float().to(state[0].device) for t in found[1])
    return LatentStatistics(mean, std, vectors[:components], variances[:components])


@torch.no_grad()
def map_latents(
    G: nn.Module, z: torch.Tensor, class_index: int | None = None, truncation_psi: float = 1
) -> torch.Tensor:
    """`z` `[N, z_dim]` → ws `[N, num_ws, w_dim]`, in chunks that a small machine can hold.

    Raises ValueError when the network needs a class and gets none, or the other way round.
    """
    c_dim = G.c_dim
    if c_dim and (class_index is None or not 0 <= class_index < c_dim):
        raise ValueError(f"class: got {class_index}, expected 0 … {c_dim - 1} for this network")
    if not c_dim and class_index is not None:
        raise ValueError(f"class: got {class_index}, but this network has no classes; leave it out")
    device = next(G.mapping.parameters()).device
    parts = []
    for part in z.to(device, torch.float32).split(2048):
        c = torch.zeros([len(part), c_dim], device=device)
        if c_dim:
            c[:, class_index] = 1
        parts.append(G.mapping(part, c, truncation_psi=truncation_psi))
    return torch.cat(parts)


def seed_latents(seed: int, count: int, z_dim: int) -> torch.Tensor:
    """`z` `[count, z_dim]` of a seed; the first row is what `sg3 generate` draws for that seed."""
    return torch.from_numpy(np.random.RandomState(seed).randn(count, z_dim))


class LatentSpace:
    """Coordinates around a start: `ws = base + coordinates @ directions`.

    `basis="pca"` moves along the principal components of W only, each scaled to unit variance;
    `basis="std"` moves every number of w, each scaled by its standard deviation (REFERENCE.md §8.1).
    `per_layer` gives each of the `num_ws` rows coordinates of its own (W+). Whatever of the start
    lies outside the span stays in `base`, so the start itself is met exactly. With `rows` the
    others stay where they start.
    """

    def __init__(
        self,
        statistics: LatentStatistics,
        start: torch.Tensor,
        basis: str,
        per_layer: bool,
        rows: Collection[int] | None = None,
    ):
        self.statistics = statistics
        self.num_ws = start.shape[1]
        self.rows = list(range(self.num_ws)) if rows is None else sorted(rows)
        if basis == "pca":
            scale = statistics.variances.sqrt()
            self.directions = statistics.components * scale[:, None]  # [D, w_dim]
            places = statistics.whiten(start)
        else:
            # A dead number of w keeps its value instead of blowing up the division.
            scale = statistics.std.clamp_min(1e-8)
            self.directions = torch.diag(scale)
            places = (start - statistics.mean) / scale
        self.fixed = start
        places = places[:, self.rows]
        # In W all rows share their coordinates; what the start has beyond that is base, too.
        self.start = places if per_layer else places.mean(dim=1, keepdim=True)  # [B, 1 or R, D]
        self.base = start[:, self.rows] - self.start @ self.directions  # [B, R, w_dim]

    def moving(self, coordinates: torch.Tensor) -> torch.Tensor:
        """`coordinates` `[B, 1 or R, D]` → the rows of ws that move, `[B, R, w_dim]`."""
        return self.base + coordinates @ self.directions

    def decode(self, coordinates: torch.Tensor) -> torch.Tensor:
        """`coordinates` `[B, 1 or R, D]`, R the rows that move → ws `[B, num_ws, w_dim]`."""
        moving = self.moving(coordinates)
        if len(self.rows) == self.num_ws:
            return moving
        index = torch.tensor(self.rows, device=moving.device)
        return self.fixed.index_copy(1, index, moving)

    def square(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Of the rows that move: mean squared whitened coordinate, `[B]`."""
        return self.statistics.whiten(self.moving(coordinates)).square().mean(dim=(1, 2))

    @torch.no_grad()
    def bound_(self, coordinates: torch.Tensor, max_sigma: float | torch.Tensor) -> None:
        """Pull `coordinates`, in place, back to where the root of `square` is at most `max_sigma`
        (a number or `[B]`; 0 for no bound)."""
        limit = torch.as_tensor(max_sigma, dtype=coordinates.dtype, device=coordinates.device)
        if not limit.any():
            return
        # `base` need not be at the mean, so shrinking once may fall short; three times do not.
        for _ in range(3):
            factor = (limit / self.square(coordinates).sqrt().clamp_min(1e-12)).clamp_max(1)
            coordinates.mul_(factor[:, None, None])
