"""Which layers are trained at each step: stages, fixed or adaptive (NADA Sec. 4.2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nada.config import AdaptConfig
from nada.layers import Unit, chosen_units, most_moved, units_of
from sg3.errors import UserError
from sg3.networks.generator import MappedGenerator

#: Learning rate of the latents in an adaptive selection (REFERENCE.md §8.6). Only the order of
#: the movements matters, not their size.
LATENT_LR = 0.01


@dataclass(frozen=True)
class Stage:
    """Layers that may be trained from step `first` (counted from 1); `choice` is their name."""

    first: int
    choice: str
    units: list[Unit]


def stages_of(G: nn.Module, layers: str, steps: int) -> list[Stage]:
    """Parse `layers`, for example "coarse:0.6 then all", into the stages of a run of `steps` steps.

    Each stage is "auto" or what `chosen_units` takes, with its fraction of the steps; stages
    without a number divide the rest equally. Raises ValueError for fractions that do not fit and
    for unknown layers.
    """
    parts = [part.strip().partition(":") for part in re.split(r"\bthen\b", layers)]
    try:
        given = [float(fraction) if colon else None for _, colon, fraction in parts]
    except ValueError:
        given = [-1.0]
    left = 1 - sum(fraction for fraction in given if fraction is not None)
    without = given.count(None)
    outside = any(fraction is not None and not 0 < fraction <= 1 for fraction in given)
    # Fractions that add up to 1 do so only up to rounding.
    if outside or left < -1e-9:
        raise UserError(f"layers: got {layers!r}, expected fractions like 'coarse:0.6 then all'")
    stages, first = [], 1
    for (choice, _, _), fraction in zip(parts, given, strict=True):
        choice = choice.strip()
        units = _adaptive_candidates(G) if choice == "auto" else chosen_units(G, choice)
        stages.append(Stage(first, choice, units))
        first += round(steps * (left / without if fraction is None else fraction))
    return stages


def _adaptive_candidates(G: nn.Module) -> list[Unit]:
    # Layers are ranked by how far their rows of ws move, so they need some.
    return [unit for unit in units_of(G) if not unit.to_rgb and unit.ws_rows]


class LayerChoice:
    """The layers that are trained at each step; `candidates` are those of all stages."""

    def __init__(self, G: MappedGenerator, config: AdaptConfig):
        self.G, self.config = G, config
        self.stages = stages_of(G, config.layers, config.steps)
        names = {unit.name for stage in self.stages for unit in stage.units}
        self.candidates = [unit for unit in units_of(G) if unit.name in names]
        self._current = self.stages[0].units

    def stage(self, index: int) -> Stage:
        """Return the stage of step `index`, counted from 1."""
        # Step 0, the source, belongs to the first stage.
        return [stage for stage in self.stages if stage.first <= max(index, 1)][-1]

    def at(
        self,
        index: int,
        draw: Callable[[int], torch.Tensor],
        to_ws: Callable[[torch.Tensor], torch.Tensor],
        loss: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[Unit]:
        """Return the layers of a step (NADA Sec. 4.2).

        Adaptive selection optimizes W+ latents for a few steps; the layers whose latents moved
        furthest are the ones best able to realize the text.

        Args:
            index: Step, counted from 1; must increase by 1 per call.
            draw: Samples N latents z `[N, z_dim]`.
            to_ws: Maps them to `[N, num_ws, w_dim]`.
            loss: Loss of images `[N, C, H, W]`, a scalar.
        """
        config, stage = self.config, self.stage(index)
        if stage.choice != "auto":
            self._current = stage.units
        elif (index - stage.first) % config.auto_every == 0:
            ws = to_ws(draw(config.auto_batch)).clone()
            start = ws.clone()
            for _ in range(config.auto_moves):
                ws.requires_grad_(True)
                images = self.G.synthesis(ws, noise_mode="const", force_fp32=config.force_fp32)
                (gradient,) = torch.autograd.grad(loss(images), ws)
                ws = (ws - LATENT_LR * gradient).detach()
            movement = (ws - start).abs().mean(dim=(0, 2))
            self._current = most_moved(stage.units, movement, config.auto_k)
        return self._current

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {"current": [unit.name for unit in self._current]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self._current = [unit for unit in self.candidates if unit.name in state["current"]]
