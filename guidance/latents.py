"""Sampling W: mapping, statistics, whitened coordinates, and the latents that runs start from."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from sg3.errors import UserError
from sg3.generate import class_label
from sg3.networks.generator import MappedGenerator
from sg3.settings import ClassLabel

STATISTICS_SAMPLES = 10_000
#: Components below this fraction of the largest variance are rounding errors, not directions.
SMALLEST_VARIANCE = 1e-6
#: Latents that are mapped at once.
MAPPING_BATCH = 2048
#: Scale of the optimized input transform of a StyleGAN3: one unit translates the image by this
#: fraction of its larger side or rotates it by this angle in radians. That is about how much poses
#: vary, just as one unit of a latent is one standard deviation of W.
MOVE = 0.05

_cache: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of W.

    Attributes:
        mean: `[w_dim]`.
        std: standard deviation of each element, `[w_dim]`.
        components: principal components, orthonormal rows `[K, w_dim]`, largest variance first.
        variances: their variances, `[K]`.
    """

    mean: torch.Tensor
    std: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor

    def whiten(self, ws: torch.Tensor) -> torch.Tensor:
        """Map `ws` `[..., w_dim]` to coordinates `[..., K]` with unit variance over W."""
        return (ws - self.mean) @ self.components.T / self.variances.sqrt()

    def sigma(self, ws: torch.Tensor) -> torch.Tensor:
        """Distance of `ws` `[N, num_ws, w_dim]` from the mean, in standard deviations `[N]`.

        The root mean square of the whitened coordinates, which is the Mahalanobis distance in the
        span of the components divided by √K: about 1 for samples of W, 0 for the mean.
        """
        return self.whiten(ws).square().mean(dim=(1, 2)).sqrt()


@torch.no_grad()
def latent_statistics(
    G: MappedGenerator, components: int = 48, class_index: ClassLabel | None = None
) -> LatentStatistics:
    """Statistics of W from 10,000 latents at psi 1 (REFERENCE.md §8.1).

    Cached per network and class as long as the network lives, and recomputed when the weights of
    its mapping change.

    Args:
        G: the generator.
        components: number of principal components, at most w_dim.
        class_index: class of a conditional network.

    Raises ValueError if `components` is below 1.
    """
    if components < 1:
        raise ValueError(f"components: got {components}, expected at least 1")
    state = [*G.mapping.parameters(), *G.mapping.buffers()]
    # Changes in place raise `_version`; replaced tensors have another address.
    version = tuple((t.data_ptr(), t._version) for t in state)
    known = _cache.setdefault(G, {})
    found = known.get(class_index)
    if found is None or found[0] != version:
        z = torch.from_numpy(np.random.RandomState(0).randn(STATISTICS_SAMPLES, G.z_dim))
        w = map_latents(G, z, class_index)[:, 0].cpu().double()
        mean = w.mean(dim=0)
        variances, vectors = torch.linalg.eigh((w - mean).T @ (w - mean) / (len(w) - 1))
        # `eigh` sorts upwards.
        variances, vectors = variances.flip(0), vectors.flip(1).T.contiguous()
        keep = max(int((variances > SMALLEST_VARIANCE * variances[0]).sum()), 1)
        everything = (mean, w.std(dim=0), vectors[:keep], variances[:keep].clamp_min(1e-12))
        found = known[class_index] = (version, everything)
    mean, std, vectors, variances = (t.float().to(state[0].device) for t in found[1])
    return LatentStatistics(mean, std, vectors[:components], variances[:components])


@torch.no_grad()
def map_latents(
    G: MappedGenerator,
    z: torch.Tensor,
    class_index: ClassLabel | None = None,
    truncation_psi: float = 1,
) -> torch.Tensor:
    """Map `z` `[N, z_dim]` to ws `[N, num_ws, w_dim]`, in batches.

    Args:
        G: the generator.
        z: samples of a standard normal distribution.
        class_index: class of a conditional network.
        truncation_psi: 1 does not truncate, 0 returns the mean of W.

    Raises ValueError if a conditional network gets no class or an unconditional one gets one.
    """
    label = class_label(G, class_index)
    device = next(G.mapping.parameters()).device
    parts = [
        G.mapping(
            part,
            None if label is None else label.repeat(len(part), 1),
            truncation_psi=truncation_psi,
        )
        for part in z.to(device, torch.float32).split(MAPPING_BATCH)
    ]
    return torch.cat(parts)


def check_latents(name: str, ws: torch.Tensor, G: MappedGenerator, count: int) -> None:
    """Raise ValueError unless `ws`, the argument `name`, has shape `[count, num_ws, w_dim]`."""
    expected = (count, G.num_ws, G.w_dim)
    if tuple(ws.shape) != expected:
        raise UserError(f"{name}: got shape {tuple(ws.shape)}, expected {expected}")


def seed_latents(seed: int, count: int, z_dim: int) -> torch.Tensor:
    """`z` `[count, z_dim]` drawn with a seed; the first row is that of `sg3 generate`."""
    return torch.from_numpy(np.random.RandomState(seed).randn(count, z_dim))


class StartSettings(Protocol):
    """The settings that decide where a run starts (`SteerConfig`, `ProjectConfig`)."""

    @property
    def start(self) -> str:
        """One of "best", "seed", "mean"."""

    @property
    def truncation(self) -> float:
        """Truncation psi of seeds and candidates."""

    @property
    def class_index(self) -> ClassLabel | None:
        """Class of a conditional network."""


def truncated_latents(
    G: MappedGenerator, z: torch.Tensor, mean: torch.Tensor, config: StartSettings
) -> torch.Tensor:
    """Map `z` `[N, z_dim]` to ws `[N, num_ws, w_dim]`, truncated towards `mean` `[w_dim]`.

    `mean` is that of `latent_statistics`: unlike the network's own average `w_avg` it is the mean
    of the requested class.
    """
    return mean.lerp(map_latents(G, z, config.class_index), config.truncation)


def starting_latents(
    G: MappedGenerator,
    mean: torch.Tensor,
    seeds: Sequence[int],
    config: StartSettings,
    search: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Latents `[B, num_ws, w_dim]` that a run starts from.

    Args:
        G: the generator.
        mean: mean of W, `[w_dim]`.
        seeds: one per run.
        config: what to start from.
        search: finds the best latents if `config.start` is "best".
    """
    if config.start == "mean":
        return mean.expand(len(seeds), G.num_ws, -1).clone()
    if config.start == "seed":
        z = torch.cat([seed_latents(seed, 1, G.z_dim) for seed in seeds])
        return truncated_latents(G, z, mean, config)
    return search()


class LatentSpace:
    """Whitened coordinates around a start: `ws = base + coordinates @ directions`.

    What of the start lies outside the span of the directions stays in `base`, so the coordinates
    `start` decode to exactly the start.

    Args:
        statistics: of W.
        start: ws `[B, num_ws, w_dim]`.
        basis: "pca" moves along the principal components of W, each scaled to unit variance; "std"
            moves every element of w, scaled by its standard deviation (REFERENCE.md §8.1).
        per_layer: coordinates for each row of ws (W+) instead of one set for all rows.
        rows: the rows that move; the others stay where they start. None for all.
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
            # An element of w that never varies keeps its value instead of dividing by zero.
            scale = statistics.std.clamp_min(1e-8)
            self.directions = torch.diag(scale)
            places = (start - statistics.mean) / scale
        self.fixed = start
        places = places[:, self.rows]
        # In W all rows share their coordinates; deviations of the start's rows go into base.
        self.start = places if per_layer else places.mean(dim=1, keepdim=True)  # [B, 1 or R, D]
        self.base = start[:, self.rows] - self.start @ self.directions  # [B, R, w_dim]

    def moving(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Decode `coordinates` `[B, 1 or R, D]` to the rows that move, `[B, R, w_dim]`."""
        return self.base + coordinates @ self.directions

    def decode(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Decode `coordinates` `[B, 1 or R, D]` to ws `[B, num_ws, w_dim]`."""
        moving = self.moving(coordinates)
        if len(self.rows) == self.num_ws:
            return moving
        index = torch.tensor(self.rows, device=moving.device)
        return self.fixed.index_copy(1, index, moving)

    def square(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Mean squared whitened coordinate of the rows that move, `[B]`."""
        return self.statistics.whiten(self.moving(coordinates)).square().mean(dim=(1, 2))

    @torch.no_grad()
    def bound_(self, coordinates: torch.Tensor, max_sigma: float | torch.Tensor) -> None:
        """Shrink `coordinates` in place until the root of `square` is at most `max_sigma`.

        `max_sigma` is a number or `[B]`; 0 = no limit.
        """
        limit = torch.as_tensor(max_sigma, dtype=coordinates.dtype, device=coordinates.device)
        if not limit.any():
            return
        # base may lie away from the mean, so shrinking the coordinates once can fall short of the
        # limit; three times is enough.
        for _ in range(3):
            factor = (limit / self.square(coordinates).sqrt().clamp_min(1e-12)).clamp_max(1)
            coordinates.mul_(factor[:, None, None])
