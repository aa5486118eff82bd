"""Pictures of latents, in pieces that a small machine can hold where no gradient is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from guidance.style_space import added_styles

if TYPE_CHECKING:
    from guidance.directions.base import EditedLatent

#: Pixels rendered at once when nothing has to be kept for a gradient.
RENDER_BUDGET_PX = 2**21


def pictures_at_once(G: nn.Module) -> int:
    """How many pictures of `G` make up `RENDER_BUDGET_PX`, at least one."""
    return max(1, RENDER_BUDGET_PX // (G.img_height * G.img_width))


def renderer(G: nn.Module, force_fp32: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from ws `[N, num_ws, w_dim]` to pictures `[N, C, H, W]`."""

    @torch.no_grad()
    def render(ws: torch.Tensor) -> torch.Tensor:
        options = {"noise_mode": "const", "force_fp32": force_fp32}
        parts = ws.split(pictures_at_once(G))
        return torch.cat([G.synthesis(part, **options) for part in parts])

    return render


def synthesised(G: nn.Module, latent: EditedLatent, force_fp32: bool = False) -> torch.Tensor:
    """Pictures `[N, C, H, W]` of `latent`, styles and all; gradients flow to both."""
    with added_styles(G, latent.styles):
        return G.synthesis(latent.ws, noise_mode="const", force_fp32=force_fp32)
