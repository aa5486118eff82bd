"""Which layers change in a step: a fixed choice, or those that the target wants moved."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from nada.layers import Unit, chosen_units, most_moved, units_of

if TYPE_CHECKING:
    from nada.config import AdaptConfig

#: Step of the latents' descent (REFERENCE.md §8.6); only the order of the movements counts.
LATENT_LR = 0.01


@dataclass(frozen=True)
class Stage:
    """From step `first` (counted from 1), `units` may change; `choice` is how they were named."""

    first: int
    choice: str
    units: list[Unit]


def stages_of(G: nn.Module, layers: str, steps: int) -> list[Stage]:
    """The stages of `steps` steps that `layers` asks for, like "coarse:0.6 then all".

    Each is "auto" or what `chosen_units` takes, with its share of the steps; those without a
    number share what is left. Raises ValueError for shares that do not fit, and unknown layers.
    """
    parts = [part.strip().partition(":") for part in re.split(r"\bthen\b", layers)]
    try:
        given = [float(share) if colon else None for _, colon, share in parts]
    except ValueError:
        given = [-1.0]
    left = 1 - sum(share for share in given if share is not None)
    open_ended = given.count(None)
    if any(share is not None and not 0 < share <= 1 for share in given) or left < -1e-9:
        raise ValueError(f"layers: got {layers!r}, expected shares like 'coarse:0.6 then all'")
    stages, first = [], 1
    for (choice, _, _), share in zip(parts, given, strict=True):
        choice = choice.strip()
        units = _adaptive_candidates(G) if choice == "auto" else chosen_units(G, choice)
        stages.append(Stage(first, choice, units))
        first += round(steps * (left / open_ended if share is None else share))
    return stages


def _adaptive_candidates(G: nn.Module) -> list[Unit]:
    return [unit for unit in units_of(G) if not unit.to_rgb and unit.ws_rows]


class LayerChoice:
    """The units that train. `candidates` are all that may, in any stage."""

    def __init__(self, G: nn.Module, config: AdaptConfig):
        self.G, self.config = G, config
        self.stages = stages_of(G, config.layers, config.steps)
        names = {unit.name for stage in self.stages for unit in stage.units}
        self.candidates = [unit for unit in units_of(G) if unit.name in names]
        self._current = self.stages[0].units

    def stage(self, index: int) -> Stage:
        """The stage of step `index`, counted from 1."""
        return [stage for stage in self.stages if stage.first <= max(index, 1)][-1]

    def at(
        self,
        index: int,
        draw: Callable[[int], torch.Tensor],
        to_ws: Callable[[torch.Tensor], torch.Tensor],
        loss: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[Unit]:
        """The units of step `index`, counted from 1 (NADA Sec. 4.2).

        W+ descends `loss` of its pictures for a few moves; the layers whose latents went furthest
        are those through which the generator can follow the text.
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

    def state_dict(self) -> dict:
        """For `load_state_dict`."""
        return {"current": [unit.name for unit in self._current]}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`."""
        self._current = [unit for unit in self.candidates if unit.name in state["current"]]
