"""Latents with edited styles, and rendering them in batches that fit small machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from guidance.style_space import (
    added_styles,
    affine_weight,
    replaced_styles,
    style_layers,
    styles_of,
)
from sg3.devices import precise
from sg3.networks.generator import MappedGenerator

#: Pixels rendered at once where no gradient is needed.
RENDER_BUDGET_PX = 2**21
#: Largest error of `EditedLatent.folded`, relative to the largest style of a layer.
FOLDING_ERROR = 1e-4


@dataclass(frozen=True)
class EditedLatent:
    """Latents `ws` `[N, num_ws, w_dim]` with offsets of styles, `[N or 1, channels]` by layer."""

    ws: torch.Tensor
    styles: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def render(self, G: MappedGenerator, noise_mode: str = "const") -> torch.Tensor:
        """Images `[N, C, H, W]`, float32, nominally in [−1, 1]."""
        own = styles_of(G, self.ws)
        changed = {name: own[name] + extra for name, extra in self.styles.items()}
        images = []
        for first in range(0, len(self.ws), images_at_once(G)):
            part = slice(first, first + images_at_once(G))
            with replaced_styles(G, {name: style[part] for name, style in changed.items()}):
                images.append(G.synthesis(self.ws[part], noise_mode=noise_mode))
        return torch.cat(images)

    @torch.no_grad()
    def folded(self, G: MappedGenerator) -> EditedLatent:
        """The same images from `ws` alone where `G` allows it, otherwise `self`.

        Each layer of a StyleGAN3 reads its own row of ws. With affine weights A of full rank,
        w + A⁺·(s' − s) gives exactly the styles s'. Layers of a StyleGAN2 share rows, so their
        styles usually cannot be folded.
        """
        if not self.styles:
            return self
        ws, wanted = self.ws.clone(), styles_of(G, self.ws)
        for layer in style_layers(G):
            if layer.name in self.styles:
                wanted[layer.name] = wanted[layer.name] + self.styles[layer.name]
                inverse = torch.linalg.pinv(affine_weight(layer))
                step = precise(self.styles[layer.name]) @ inverse.T
                ws[:, layer.ws_row] += step.float().to(ws.device)
        # Checked, not derived: steps of layers that share a row add up, and A may lack full rank.
        found = styles_of(G, ws)
        close = all(
            (found[name] - style).abs().max() <= FOLDING_ERROR * style.abs().max()
            for name, style in wanted.items()
        )
        return EditedLatent(ws) if close else self


def one_of(latent: EditedLatent, i: int) -> EditedLatent:
    """Latent number `i` of a batch, as a batch of one."""
    styles = {name: s[i : i + 1] if len(s) > 1 else s for name, s in latent.styles.items()}
    return EditedLatent(latent.ws[i : i + 1], styles)


def images_at_once(G: MappedGenerator) -> int:
    """Number of images of `G` that make up `RENDER_BUDGET_PX`, at least one."""
    return max(1, RENDER_BUDGET_PX // (G.img_height * G.img_width))


def renderer(
    G: MappedGenerator, force_fp32: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from ws `[N, num_ws, w_dim]` to images `[N, C, H, W]`, without gradients."""

    @torch.no_grad()
    def render(ws: torch.Tensor) -> torch.Tensor:
        options = {"noise_mode": "const", "force_fp32": force_fp32}
        parts = ws.split(images_at_once(G))
        return torch.cat([G.synthesis(part, **options) for part in parts])

    return render


def synthesize(G: MappedGenerator, latent: EditedLatent, force_fp32: bool = False) -> torch.Tensor:
    """Images `[N, C, H, W]` of `latent`; gradients flow to `ws` and `styles`."""
    with added_styles(G, latent.styles):
        return G.synthesis(latent.ws, noise_mode="const", force_fp32=force_fp32)
