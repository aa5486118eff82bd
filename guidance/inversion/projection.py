"""Projection: find the latent whose image is nearest to a given one (REFERENCE.md §8.5)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from guidance.distance import Distance, Goal, load_distance
from guidance.generator import generator_of
from guidance.inversion.config import ProjectConfig
from guidance.inversion.nuisance import Nuisance, transform_of
from guidance.latents import (
    LatentSpace,
    check_latents,
    latent_statistics,
    seed_latents,
    starting_latents,
    truncated_latents,
)
from guidance.learning_rate import learning_rate
from guidance.render import renderer
from sg3.checkpoints import Networks
from sg3.media import ImageStep, ImageTensor
from sg3.networks.generator import MappedGenerator
from sg3.progress import with_bar
from sg3.settings import replace_settings

#: Candidates for the start that are compared at once.
CANDIDATES_AT_ONCE = 8
Buffers = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ProjectStep(ImageStep):
    """One step of projecting B images; step 0 is the start.

    Attributes:
        index: number of the step.
        num_steps: number of the last step.
        losses: terms by name, each `[B]`: "distance", "pixels", "prior", "spread", "noise".
        ws: latents `[B, num_ws, w_dim]`.
        buffers: buffers of the synthesis network that were optimized too, each `[B, ...]`.
        render: renders latents and buffers.
    """

    index: int
    num_steps: int
    losses: dict[str, torch.Tensor]
    ws: torch.Tensor = dataclasses.field(repr=False, compare=False)
    buffers: Buffers = dataclasses.field(repr=False, compare=False)
    render: Callable[[torch.Tensor, Buffers], torch.Tensor] = dataclasses.field(
        repr=False, compare=False
    )

    @property
    def distance(self) -> float:
        """Perceptual distance, averaged over the images."""
        return float(self.losses["distance"].mean())

    @cached_property
    def image(self) -> ImageTensor:
        """Images `[B, C, H, W]`, nominally in [−1, 1]; rendered on first use."""
        return ImageTensor.of(self.render(self.ws, self.buffers))

    def network(self, G: MappedGenerator) -> MappedGenerator:
        """A copy of `G` with the buffers of the first image, which it renders from `ws` alone."""
        found = copy.deepcopy(G)
        named = dict(found.synthesis.named_buffers())
        for name, value in self.buffers.items():
            named[name].copy_(value[0].reshape(named[name].shape))
        return found

    def moved(self) -> tuple[float, float, float] | None:
        """Transform of the first image: x and y as fractions of the larger side, and degrees.

        None if the transform was not optimized.
        """
        return transform_of(self.buffers)


def project(
    network: Networks | nn.Module,
    targets: torch.Tensor,
    distance: str | Distance = "auto",
    *,
    config: ProjectConfig | None = None,
    start_ws: torch.Tensor | None = None,
    progress: bool = False,
    **settings: Any,
) -> Iterator[ProjectStep]:
    """Find latents whose images are near `targets`; yields `steps + 1` `ProjectStep`s.

    The same seed gives the same result.

    Args:
        network: networks of `sg3.load`, or a generator, which stays as it is.
        targets: `[B, C, H, W]` in [−1, 1], of the size and channels of the generator. Each is
            projected as if it were alone.
        distance: what `load_distance` takes.
        config: settings.
        start_ws: `[B, num_ws, w_dim]` to start from, with the generator's own noise.
        progress: show a progress bar.
        **settings: fields of `ProjectConfig` that replace those of `config`.

    Raises ValueError for bad input, before the first step.

    Example:
        >>> import guidance, sg3
        >>> nets = sg3.load("mini-faces")
        >>> target = next(guidance.steer(nets, "a man", steps=0, start="seed", seed=3)).image
        >>> steps = list(guidance.project(nets, target, "scales", steps=2, candidates=4))
        >>> steps[-1].index, list(steps[-1].image.shape)
        (2, [1, 3, 64, 64])
    """
    G = generator_of(network)
    config = replace_settings(config or ProjectConfig(), settings)
    device = next(G.synthesis.parameters()).device
    check_targets(G, targets)
    if start_ws is not None:
        check_latents("start_ws", start_ws, G, len(targets))
    nuisance = Nuisance(G, len(targets), config, drawn=start_ws is None)
    if isinstance(distance, str):
        distance = load_distance(distance, device)
    goal = Goal(targets.to(device), distance)
    statistics = latent_statistics(G, G.w_dim, config.class_index)
    if start_ws is None:
        start_ws = _starting_latents(G, goal, statistics.mean, config)
    space = LatentSpace(statistics, start_ws.to(device), config.basis, config.space == "w+")
    steps = _optimize(G, goal, space, nuisance, config)
    return with_bar(steps, config.steps + 1, "project", progress)


def check_targets(G: MappedGenerator, targets: torch.Tensor) -> None:
    """Raise ValueError unless `targets` are finite images of the size and channels of `G`."""
    expected = (G.img_channels, G.img_height, G.img_width)
    if targets.ndim != 4 or tuple(targets.shape[1:]) != expected or not len(targets):
        shape = tuple(targets.shape)
        raise ValueError(
            f"targets: got shape {shape}, expected [N, {', '.join(map(str, expected))}]"
        )
    if not targets.isfinite().all():
        raise ValueError("targets: got values that are not finite, expected [−1, 1]")


@torch.no_grad()
def _starting_latents(
    G: MappedGenerator, goal: Goal, mean: torch.Tensor, config: ProjectConfig
) -> torch.Tensor:
    """Latents `[B, num_ws, w_dim]` to start from; `mean` `[w_dim]` is that of W."""

    def nearest() -> torch.Tensor:
        z = seed_latents(config.seed, config.candidates, G.z_dim)
        ws = truncated_latents(G, z, mean, config)
        render = renderer(G, config.force_fp32)
        smallest = torch.full([count], math.inf, device=ws.device)
        best = ws[:1].repeat(count, 1, 1)
        for part in ws.split(CANDIDATES_AT_ONCE):
            found, which = goal.nearest(render(part))
            better = found < smallest
            smallest = torch.where(better, found, smallest)
            best[better] = part[which[better]]
        return best

    count = len(goal.targets)
    ws = starting_latents(G, mean, [config.seed], config, nearest)
    return ws.expand(count, -1, -1).clone()


def _optimize(
    G: MappedGenerator, goal: Goal, space: LatentSpace, nuisance: Nuisance, config: ProjectConfig
) -> Iterator[ProjectStep]:
    latent = space.start.clone().requires_grad_(True)
    parameters = [latent, *nuisance.parameters]
    optimizer = torch.optim.Adam(parameters, lr=config.lr, betas=config.betas)
    # One per image, all alike: each is projected as if it were alone.
    generators = [torch.Generator().manual_seed(config.seed) for _ in latent]
    options = {"noise_mode": "const", "force_fp32": config.force_fp32}

    def synthesize(ws: torch.Tensor, buffers: Buffers) -> torch.Tensor:
        return functional_call(G.synthesis, buffers, (ws,), options)

    @torch.no_grad()
    def render(ws: torch.Tensor, buffers: Buffers) -> torch.Tensor:
        return synthesize(ws, buffers)

    for index in range(config.steps + 1):
        last = index == config.steps
        sigma = config.exploration * max(0, 1 - index / max(config.steps, 1) / 0.75) ** 2
        noise = torch.stack([torch.randn(latent.shape[1:], generator=g) for g in generators])
        with torch.set_grad_enabled(not last):
            ws, buffers = space.decode(latent), nuisance.buffers()
            # No noise at step 0, so that its losses are those of the start.
            tried = space.decode(latent + sigma * noise.to(latent)) if sigma and index else ws
            terms = goal.terms(synthesize(tried, buffers))
            terms["prior"] = space.statistics.whiten(ws).square().mean(dim=(1, 2))
            rows = latent - latent.mean(dim=1, keepdim=True)
            terms["spread"] = rows.square().mean(dim=(1, 2))
            terms["noise"] = nuisance.noise_penalty()
            total = (
                terms["distance"]
                + config.pixels * terms["pixels"]
                + config.prior * terms["prior"]
                + config.spread * terms["spread"]
                + config.noise_weight * terms["noise"]
            ).sum()
        yield ProjectStep(
            index,
            config.steps,
            {name: value.detach().cpu() for name, value in terms.items()},
            ws.detach(),
            # Cloned, because the next step changes the noise in place.
            {name: value.detach().clone() for name, value in buffers.items()},
            render,
        )
        if last:
            break
        # backward() would also fill .grad of the generator's weights where they require it.
        gradients = torch.autograd.grad(total, parameters)
        for tensor, gradient in zip(parameters, gradients, strict=True):
            tensor.grad = gradient
        optimizer.param_groups[0]["lr"] = learning_rate(index, config.steps, config.lr)
        optimizer.step()
        nuisance.normalize_()
