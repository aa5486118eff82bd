"""Pivotal tuning: fine-tune the generator around a latent until its image is the photo
(PTI, arXiv 2106.05744; REFERENCE.md §8.5)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from guidance.distance import Distance, Goal, load_distance
from guidance.generator import generator_of
from guidance.inversion.config import TuneConfig
from guidance.inversion.projection import check_targets
from guidance.latents import check_latents, latent_statistics, map_latents
from guidance.render import renderer
from sg3.checkpoints import Networks
from sg3.media import ImageStep, ImageTensor
from sg3.networks.generator import MappedGenerator
from sg3.progress import with_bar
from sg3.settings import replace_settings

#: Truncation psi of the latents in whose direction the neighbours of the pivot lie.
NEIGHBOUR_PSI = 0.5
#: Up to this size networks get the larger default learning rate.
SMALL_PX = 64


@dataclass(frozen=True)
class TuneStep(ImageStep):
    """One step of tuning; step 0 is the network before tuning.

    Attributes:
        index: number of the step.
        num_steps: number of the last step, unless the run stops before.
        losses: terms by name, each `[B]`: "distance", "pixels", and "locality", which is NaN at
            steps that do not measure it.
        reason: why this is the last step; None before.
        tuning: the run, whose `G` is the tuned network.
    """

    index: int
    num_steps: int
    losses: dict[str, torch.Tensor]
    reason: str | None
    tuning: Tuning = dataclasses.field(repr=False, compare=False)

    @property
    def distance(self) -> float:
        """Perceptual distance, averaged over the images."""
        return float(self.losses["distance"].mean())

    @cached_property
    def image(self) -> ImageTensor:
        """Images `[B, C, H, W]`; to be rendered before the next step changes the network."""
        render = renderer(self.tuning.G, self.tuning.config.force_fp32)
        return ImageTensor.of(render(self.tuning.ws))


def tune(
    network: Networks | nn.Module,
    ws: torch.Tensor,
    targets: torch.Tensor,
    distance: str | Distance = "auto",
    *,
    config: TuneConfig | None = None,
    progress: bool = False,
    **settings: Any,
) -> Tuning:
    """Fine-tune a copy of the generator until its images of `ws` are `targets`.

    An iterator of up to `steps + 1` `TuneStep`s; its `G` is the result. The same seed gives the
    same result.

    Args:
        network: networks of `sg3.load`, or a generator, which stays as it is.
        ws: the pivots, `[B, num_ws, w_dim]`, for example of `guidance.project`.
        targets: `[B, C, H, W]` in [−1, 1].
        distance: what `load_distance` takes.
        config: settings.
        progress: show a progress bar.
        **settings: fields of `TuneConfig` that replace those of `config`.

    Raises ValueError for bad input, before the first step.

    Example:
        >>> import guidance, sg3
        >>> nets = sg3.load("mini-faces")
        >>> target = next(guidance.steer(nets, "a man", steps=0, start="seed", seed=3)).image
        >>> *_, found = guidance.project(nets, target, "scales", steps=2, candidates=4)
        >>> tuning = guidance.tune(nets, found.ws, target, "scales", steps=2)
        >>> [step.index for step in tuning]
        [0, 1, 2]
        >>> tuned = tuning.G
    """
    G = generator_of(network)
    config = replace_settings(config or TuneConfig(), settings)
    check_targets(G, targets)
    check_latents("ws", ws, G, len(targets))
    device = next(G.synthesis.parameters()).device
    if isinstance(distance, str):
        distance = load_distance(distance, device)
    return Tuning(G, ws.to(device), targets.to(device), distance, config, progress)


class Tuning(Iterator[TuneStep]):
    """A tuning run.

    Attributes:
        source: a frozen copy of the network before tuning.
        G: the network that is tuned.
        index: number of the latest step; −1 before the first.
        reason: why the run has ended; None before.
    """

    def __init__(
        self,
        G: MappedGenerator,
        ws: torch.Tensor,
        targets: torch.Tensor,
        distance: Distance,
        config: TuneConfig,
        progress: bool = False,
    ):
        self.source = copy.deepcopy(G).eval().requires_grad_(False)
        self.G = copy.deepcopy(self.source)
        self.ws, self.config, self.index = ws, config, -1
        self.reason: str | None = None
        # At full size; only projection compares at 256 pixels.
        self.goal = Goal(targets, distance, largest_px=max(targets.shape[2:]))
        self.stop = distance.close_enough if config.stop is None else config.stop
        # Not the mapping, so that latents keep their meaning.
        self.parameters = list(self.G.synthesis.parameters())
        small = max(targets.shape[2:]) <= SMALL_PX
        lr = config.lr if config.lr is not None else 2e-3 if small else 3e-4
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr)
        statistics = latent_statistics(G, 1, config.class_index)
        # The paper's radius of 30 does not know how wide this W is.
        self.radius = config.locality_radius * float(statistics.std.square().sum().sqrt())
        self._generator = torch.Generator().manual_seed(config.seed)
        self._steps = with_bar(self._run(), config.steps + 1, "tune", progress)

    def __next__(self) -> TuneStep:
        return next(self._steps)

    def _run(self) -> Iterator[TuneStep]:
        while self.reason is None:
            self.index += 1
            losses, total = self._measure(last=self.index == self.config.steps)
            yield TuneStep(self.index, self.config.steps, losses, self.reason, self)
            if self.reason is None:
                self._update(total)

    def _measure(self, last: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Losses of the network as it is, and their differentiable total; may set `reason`."""
        config = self.config
        with torch.set_grad_enabled(not last):  # the caller may have switched gradients off
            self.G.synthesis.requires_grad_(not last)
            terms = self.goal.terms(self._synthesize(self.G, self.ws))
            losses = {name: value.detach().cpu() for name, value in terms.items()}
            losses["locality"] = torch.full([len(self.ws)], math.nan)
            # Before locality, which a last step would render in vain.
            if bool((terms["distance"].detach() <= self.stop).all()):
                self.reason = "close enough"
            elif last:
                self.reason = "all steps done"
            total = config.perceptual * terms["distance"] + config.pixels * terms["pixels"]
            if self.reason is not None:
                self.G.synthesis.requires_grad_(False)
            elif config.locality and self.index % config.locality_every == 0:
                change = self._change_nearby()
                losses["locality"] = change.detach().cpu()
                total = total + config.locality * change
            return losses, total.sum()

    def _synthesize(self, G: MappedGenerator, ws: torch.Tensor) -> torch.Tensor:
        return G.synthesis(ws, noise_mode="const", force_fp32=self.config.force_fp32)

    def _change_nearby(self) -> torch.Tensor:
        """Change of the images of random latents near the pivots, `[B]`."""
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
        # Layers that do not contribute to the image have no gradient.
        found = torch.autograd.grad(total, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
