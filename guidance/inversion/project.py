"""Projection: the latent whose picture looks most like a given one (REFERENCE.md §8.5)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from guidance.distance import Distance, load_distance
from guidance.inversion.nuisance import Beside, transform_of
from guidance.latents import LatentSpace, latent_statistics, map_latents, seed_latents
from guidance.render import renderer

CHOICES = {"space": ("w", "w+"), "start": ("best", "seed", "mean"), "basis": ("std", "pca")}
#: Larger pictures are compared at this size, as the published projector does.
LARGEST_PX = 256


@dataclass(frozen=True)
class ProjectConfig:
    """Settings of `project`. Raises ValueError for values outside the stated ranges."""

    steps: int = 300
    seed: int = 0
    #: "w": one latent for all layers, which edits well; "w+": one per layer, which fits better.
    space: str = "w"
    #: Coordinates: every number of w, or principal components, each scaled to unit deviation.
    basis: str = "std"
    #: The nearest of `candidates` random pictures, the seed's own, or the mean of W.
    start: str = "best"
    candidates: int = 64
    #: Truncation psi of the starting pictures.
    truncation: float = 0.7
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    #: Random steps at the beginning, in standard deviations of W; they end at three quarters.
    exploration: float = 0.5
    #: Weight of the mean squared difference of pixels beside the perceptual distance.
    pixels: float = 0.1
    #: Pull towards the mean of W: this times the mean squared coordinate.
    prior: float = 0.0
    #: Of w+: pull of the rows towards their mean, this times their mean squared deviation.
    spread: float = 0.0
    #: Whether the input transform of a StyleGAN3 moves and turns the picture, too.
    transform: bool = False
    #: Of StyleGAN2: whether its noise is found too, and how much it must remain noise.
    noise: bool = True
    noise_weight: float = 1e5
    class_index: int | None = None
    #: As in print: steps this small get lost in half precision, which GPUs use otherwise.
    force_fp32: bool = True

    def __post_init__(self):
        for name, expected in CHOICES.items():
            if getattr(self, name) not in expected:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected {' or '.join(expected)}"
                )
        for name, least in {"steps": 0, "candidates": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {least}")
        for name in ("lr", "exploration", "pixels", "prior", "spread", "noise_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: got {value}, expected a number ≥ 0")


@dataclass(frozen=True)
class Step:
    """One point of the way, for B pictures. `index` 0 is the start, `num_steps` the end."""

    index: int
    num_steps: int
    #: Terms by name, each `[B]`: "distance", "pixels", "prior", "spread", "noise".
    losses: dict[str, torch.Tensor]
    #: `[B, num_ws, w_dim]`
    ws: torch.Tensor = dataclasses.field(repr=False, compare=False)
    #: What was found beside the latent, by name in the synthesis network, each `[B, ...]`.
    buffers: dict[str, torch.Tensor] = dataclasses.field(repr=False, compare=False)
    render: Callable = dataclasses.field(repr=False, compare=False)

    @property
    def distance(self) -> float:
        """Mean over the pictures."""
        return float(self.losses["distance"].mean())

    @cached_property
    def images(self) -> torch.Tensor:
        """Pictures `[B, C, H, W]`, nominally in [−1, 1]; rendered on demand."""
        return self.render(self.ws, self.buffers)

    def network(self, G: nn.Module) -> nn.Module:
        """A copy of `G` that makes the picture from `ws` alone; for one picture."""
        found = copy.deepcopy(G)
        named = dict(found.synthesis.named_buffers())
        for name, value in self.buffers.items():
            named[name].copy_(value[0].reshape(named[name].shape))
        return found

    def moved(self) -> tuple[float, float, float] | None:
        """How the first picture was moved: x and y in larger sides, degrees; None if it was not."""
        return transform_of(self.buffers)


def project(
    G: nn.Module,
    targets: torch.Tensor,
    distance: str | Distance = "auto",
    *,
    config: ProjectConfig | None = None,
    start_ws: torch.Tensor | None = None,
    **settings,
) -> Iterator[Step]:
    """Find latents of `G` whose pictures look like `targets`; yields `steps + 1` `Step`s.

    `targets` `[B, C, H, W]` in [−1, 1], of the size and channels of `G`, each as if it were alone.
    `distance`: what `load_distance` takes. `settings`: fields of `ProjectConfig`, replacing those
    of `config`. `start_ws` `[B, num_ws, w_dim]` begins there, with the noise that `G` has. `G`
    itself stays as it is. The same seed gives the same result. Bad input raises ValueError here,
    before the first step.
    """
    config = dataclasses.replace(config or ProjectConfig(), **settings)
    device = next(G.synthesis.parameters()).device
    check_targets(G, targets)
    expected = (len(targets), G.num_ws, G.w_dim)
    if start_ws is not None and tuple(start_ws.shape) != expected:
        raise ValueError(f"start_ws: got shape {tuple(start_ws.shape)}, expected {expected}")
    beside = Beside(G, len(targets), config, drawn=start_ws is None)
    if isinstance(distance, str):
        distance = load_distance(distance, device)
    goal = Goal(targets.to(device), distance)
    statistics = latent_statistics(G, G.w_dim, config.class_index)
    if start_ws is None:
        start_ws = starting_latents(G, goal, statistics.mean, config)
    space = LatentSpace(statistics, start_ws.to(device), config.basis, config.space == "w+")
    return _optimise(G, goal, space, beside, config)


def check_targets(G: nn.Module, targets: torch.Tensor) -> None:
    """Raise ValueError unless `targets` are pictures of the size and channels of `G`."""
    expected = (G.img_channels, G.img_height, G.img_width)
    if targets.ndim != 4 or tuple(targets.shape[1:]) != expected or not len(targets):
        shape = tuple(targets.shape)
        raise ValueError(
            f"targets: got shape {shape}, expected [N, {', '.join(map(str, expected))}]"
        )
    if not targets.isfinite().all():
        raise ValueError("targets: not all values are finite numbers")


class Goal:
    """How far pictures are from their targets."""

    def __init__(self, targets: torch.Tensor, distance: Distance, largest_px: int = LARGEST_PX):
        self.targets, self.distance, self.largest_px = targets, distance, largest_px
        with torch.no_grad():
            self.features = self._features(targets)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        if max(height, width) > self.largest_px:
            share = self.largest_px / max(height, width)
            size = (round(height * share), round(width * share))
            images = F.interpolate(images, size=size, mode="area")
        return self.distance.features(images)

    def terms(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[B, C, H, W]` → the distance and the mean squared difference of pixels, each `[B]`."""
        return {
            "distance": (self._features(images) - self.features).square().sum(dim=1),
            "pixels": (images - self.targets).square().mean(dim=(1, 2, 3)),
        }

    def nearest(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of `images` `[N, C, H, W]`, the smallest distance to each target, and which one `[B]`."""
        found = [(self._features(image[None]) - self.features).square().sum(1) for image in images]
        return torch.stack(found).min(dim=0)


@torch.no_grad()
def starting_latents(G: nn.Module, goal: Goal, mean: torch.Tensor, config) -> torch.Tensor:
    """Where each picture begins, `[B, num_ws, w_dim]`; `mean` `[w_dim]` is that of W."""
    count = len(goal.targets)
    if config.start == "mean":
        return mean.expand(count, G.num_ws, -1).clone()
    candidates = 1 if config.start == "seed" else config.candidates
    z = seed_latents(config.seed, candidates, G.z_dim)
    ws = mean.lerp(map_latents(G, z, config.class_index), config.truncation)
    if candidates == 1:
        return ws.expand(count, -1, -1).clone()
    render = renderer(G, config.force_fp32)
    least = torch.full([count], math.inf, device=ws.device)
    best = ws[:1].repeat(count, 1, 1)
    for part in ws.split(8):
        found, which = goal.nearest(render(part))
        better = found < least
        least, best[better] = torch.where(better, found, least), part[which[better]]
    return best


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: short warm-up, cosine fall over the last quarter."""
    t = step / max(steps, 1)
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))
    return min(1, (step + 1) / max(steps, 1) / 0.05) * fall


def _optimise(
    G: nn.Module, goal: Goal, space: LatentSpace, beside: Beside, config: ProjectConfig
) -> Iterator[Step]:
    latent = space.start.clone().requires_grad_(True)
    unknown = [latent, *beside.unknown]
    optimiser = torch.optim.Adam(unknown, lr=config.lr, betas=config.betas)
    generators = [torch.Generator().manual_seed(config.seed) for _ in latent]
    options = {"noise_mode": "const", "force_fp32": config.force_fp32}

    def synthesize(ws, buffers):
        return functional_call(G.synthesis, buffers, (ws,), options)

    @torch.no_grad()
    def render(ws, buffers):
        return synthesize(ws, buffers)

    for index in range(config.steps + 1):
        last = index == config.steps
        share = config.exploration * max(0, 1 - index / max(config.steps, 1) / 0.75) ** 2
        drawn = torch.stack([torch.randn(latent.shape[1:], generator=g) for g in generators])
        with torch.set_grad_enabled(not last):
            ws, buffers = space.decode(latent), beside.buffers()
            tried = space.decode(latent + share * drawn.to(latent)) if share and index else ws
            terms = goal.terms(synthesize(tried, buffers))
            terms["prior"] = space.statistics.whiten(ws).square().mean(dim=(1, 2))
            rows = latent - latent.mean(dim=1, keepdim=True)
            terms["spread"] = rows.square().mean(dim=(1, 2))
            terms["noise"] = beside.noise_penalty()
            total = (
                terms["distance"]
                + config.pixels * terms["pixels"]
                + config.prior * terms["prior"]
                + config.spread * terms["spread"]
                + config.noise_weight * terms["noise"]
            ).sum()
        yield Step(
            index,
            config.steps,
            {name: value.detach().cpu() for name, value in terms.items()},
            ws.detach(),
            {name: value.detach().clone() for name, value in buffers.items()},
            render,
        )
        if last:
            break
        # Only these gradients: weights of G are left alone whatever their requires_grad.
        for tensor, gradient in zip(unknown, torch.autograd.grad(total, unknown), strict=True):
            tensor.grad = gradient
        optimiser.param_groups[0]["lr"] = config.lr * schedule(index, config.steps)
        optimiser.step()
        beside.settle_()
