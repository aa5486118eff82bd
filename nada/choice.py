"""Which layers change in a step: a fixed choice, or those that the target wants moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from nada.layers import Unit, chosen_units, most_moved, units_of

if TYPE_CHECKING:
    from nada.adapt import AdaptConfig

#: Step of the latents' descent (FACTS 8.6); only the order of the movements counts.
LATENT_LR = 0.01


class LayerChoice:
    """The units that train. `candidates` are all that may."""

    def __init__(self, G: nn.Module, config: AdaptConfig):
        self.G, self.config = G, config
        self.adaptive = config.layers == "auto"
        if self.adaptive:
            self.candidates = [unit for unit in units_of(G) if not unit.to_rgb and unit.ws_rows]
        else:
            self.candidates = chosen_units(G, config.layers)
        self._current = self.candidates

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
        config = self.config
        if self.adaptive and (index - 1) % config.auto_every == 0:
            ws = to_ws(draw(config.auto_batch)).clone()
            start = ws.clone()
            for _ in range(config.auto_moves):
                ws.requires_grad_(True)
                images = self.G.synthesis(ws, noise_mode="const", force_fp32=config.force_fp32)
                (gradient,) = torch.autograd.grad(loss(images), ws)
                ws = (ws - LATENT_LR * gradient).detach()
            movement = (ws - start).abs().mean(dim=(0, 2))
            self._current = most_moved(self.candidates, movement, config.auto_k)
        return self._current

    def state_dict(self) -> dict:
        """For `load_state_dict`."""
        return {"current": [unit.name for unit in self._current]}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`."""
        self._current = [unit for unit in self.candidates if unit.name in state["current"]]
