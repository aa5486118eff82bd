"""Pivotal tuning: the generator itself is bent until the latent's picture is the photo
(PTI, arXiv 2106.05744; REFERENCE.md §8.5)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from guidance.distance import Distance, load_distance
from guidance.inversion.project import Goal, check_targets
from guidance.latents import latent_statistics, map_latents
from guidance.render import renderer

#: Truncation psi of the latents towards which the neighbours of the pivot lie.
NEIGHBOUR_PSI = 0.5
#: Networks of smaller pictures have fewer weights, which have to move further.
SMALL_PX = 64


@dataclass(frozen=True)
class TuneConfig:
    """Settings of `tune`. Raises ValueError for values outside the stated ranges."""

    #: At most.
    steps: int = 350
    seed: int = 0
    #: None for 2e-3 of pictures up to 64 pixels wide, else 3e-4.
    lr: float | None = None
    #: Weights of the mean squared difference of pixels and of the perceptual distance.
    pixels: float = 1.0
    perceptual: float = 1.0
    #: Stop at this distance; None for that at which pictures can hardly be told apart; 0: never.
    stop: float | None = None
    #: Weight of what changes in the pictures of latents near the pivot, and how often it is looked
    #: at: 0.1 at every step in print, here as much in a third of them, which is quicker.
    locality: float = 0.3
    locality_every: int = 3
    #: How far from the pivot they lie, in root mean square distances of W from its mean.
    locality_radius: float = 1.0
    class_index: int | None = None
    #: As in print: steps this small get lost in half precision, which GPUs use otherwise.
    force_fp32: bool = True

    def __post_init__(self):
        for name, least in {"steps": 0, "locality_every": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {least}")
        for name in ("lr", "pixels", "perceptual", "stop", "locality", "locality_radius"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: got {value}, expected a number ≥ 0")


@dataclass(frozen=True)
class TuneStep:
    """One point of the way. `index` 0 is the network as it came, `num_steps` the last that may
    come."""

    index: int
    num_steps: int
    #: Terms by name, each `[B]`: "distance", "pixels"; "locality" is NaN where not measured.
    losses: dict[str, torch.Tensor]
    #: Why this is the last step, at the last step.
    reason: str | None
    tuning: Tuning = dataclasses.field(repr=False, compare=False)

    @property
    def distance(self) -> float:
        """Mean over the pictures."""
        return float(self.losses["distance"].mean())

    @cached_property
    def images(self) -> torch.Tensor:
        """Pictures `[B, C, H, W]`; rendered on demand, while this step is the latest."""
        return renderer(self.tuning.G, self.tuning.config.force_fp32)(self.tuning.ws)


def tune(
    G: nn.Module,
    ws: torch.Tensor,
    targets: torch.Tensor,
    distance: str | Distance = "auto",
    *,
    config: TuneConfig | None = None,
    **settings,
) -> Tuning:
    """Tune a copy of `G` until its pictures of `ws` `[B, num_ws, w_dim]` are `targets`
    `[B, C, H, W]` in [−1, 1].

    An iterator of up to `steps + 1` `TuneStep`s, whose `G` is the result; the network that came
    stays as it is. `settings`: fields of `TuneConfig`, replacing those of `config`. The same seed
    gives the same result. Raises ValueError for bad input, before the first step.
    """
    config = dataclasses.replace(config or TuneConfig(), **settings)
    check_targets(G, targets)
    expected = (len(targets), G.num_ws, G.w_dim)
    if tuple(ws.shape) != expected:
        raise ValueError(f"ws: got shape {tuple(ws.shape)}, expected {expected}")
    device = next(G.synthesis.parameters()).device
    if isinstance(distance, str):
        distance = load_distance(distance, device)
    return Tuning(G, ws.to(device), targets.to(device), distance, config)


class Tuning(Iterator[TuneStep]):
    """A running tuning: `source` stays, `G` is tuned and the result."""

    def __init__(self, G, ws, targets, distance: Distance, config: TuneConfig):
        self.source = copy.deepcopy(G).eval().requires_grad_(False)
        self.G = copy.deepcopy(self.source)
        self.ws, self.config, self.index, self.reason = ws, config, -1, None
        self.goal = Goal(targets, distance, largest_px=max(targets.shape[2:]))
        self.stop = distance.close_enough if config.stop is None else config.stop
        self.parameters = list(self.G.synthesis.parameters())
        small = max(targets.shape[2:]) <= SMALL_PX
        lr = config.lr if config.lr is not None else 2e-3 if small else 3e-4
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr)
        statistics = latent_statistics(G, 1, config.class_index)
        self.radius = config.locality_radius * float(statistics.std.square().sum().sqrt())
        self._generator = torch.Generator().manual_seed(config.seed)
        self._pending: torch.Tensor | None = None

    def __next__(self) -> TuneStep:
        if self.reason is not None:
            raise StopIteration
        if self._pending is not None:
            self._update(self._pending)
        self.index += 1
        config, last = self.config, self.index == self.config.steps
        with torch.set_grad_enabled(not last):
            for parameter in self.parameters:
                parameter.requires_grad_(not last)
            terms = self.goal.terms(self._synthesize(self.G, self.ws))
            close = bool((terms["distance"].detach() <= self.stop).all())
            self.reason = "close enough" if close else "all steps done" if last else None
            losses = {name: value.detach().cpu() for name, value in terms.items()}
            losses["locality"] = torch.full([len(self.ws)], math.nan)
            if self.reason is None:
                total = config.perceptual * terms["distance"] + config.pixels * terms["pixels"]
                if config.locality and self.index % config.locality_every == 0:
                    change = self._change_nearby()
                    losses["locality"] = change.detach().cpu()
                    total = total + config.locality * change
                self._pending = total.sum()
            else:
                self._release()
        return TuneStep(self.index, config.steps, losses, self.reason, self)

    def _synthesize(self, G: nn.Module, ws: torch.Tensor) -> torch.Tensor:
        return G.synthesis(ws, noise_mode="const", force_fp32=self.config.force_fp32)

    def _change_nearby(self) -> torch.Tensor:
        """How far the pictures of latents near the pivots have moved, `[B]`."""
        z = torch.randn([len(self.ws), self.G.z_dim], generator=self._generator)
        away = map_latents(self.source, z, self.config.class_index, NEIGHBOUR_PSI) - self.ws
        length = away.norm(dim=2, keepdim=True).clamp_min(1e-12)
        nearby = self.ws + self.radius * away / length
        with torch.no_grad():
            before = Goal(
                self._synthesize(self.source, nearby), self.goal.distance, self.goal.largest_px
            )
        terms = before.terms(self._synthesize(self.G, nearby))
        return self.config.perceptual * terms["distance"] + self.config.pixels * terms["pixels"]

    def _update(self, total: torch.Tensor) -> None:
        # Layers that a network has and the picture does not use have no gradient.
        found = torch.autograd.grad(total, self.parameters, allow_unused=True)
        self._pending = None
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _release(self) -> None:
        self._pending = None
        for parameter in self.parameters:
            parameter.requires_grad_(False)
