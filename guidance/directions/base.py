"""A direction, and what edits along directions make of a latent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from guidance.render import pictures_at_once
from guidance.style_space import replaced_styles, style_layers, styles_of
from sg3.errors import UserError

#: Styles count as reached when they are off by no more than this share of their largest number.
FOLDING_ERROR = 1e-4


@dataclass(frozen=True)
class Direction:
    """One step (alpha 1): `ws` `[num_ws, w_dim]` is added to a latent, `styles` `[channels]` by the
    name of their layer to what the affine layers make of it; either may be missing."""

    name: str
    ws: torch.Tensor | None = None
    styles: Mapping[str, torch.Tensor] = field(default_factory=dict)
    #: What is known of it, JSON-able: how many channels, how well labels are told apart, …
    info: Mapping[str, Any] = field(default_factory=dict)

    def on_rows(self, G: nn.Module, rows: Collection[int]) -> Direction:
        """This direction in the layers that read these rows of ws, none elsewhere."""
        kept = {layer.name for layer in style_layers(G) if layer.ws_row in rows}
        styles = {name: style for name, style in self.styles.items() if name in kept}
        ws = self.ws
        if ws is not None:
            mask = torch.tensor([row in rows for row in range(len(ws))], device=ws.device)
            ws = ws * mask[:, None]
        return replace(self, ws=ws, styles=styles)


@dataclass(frozen=True)
class EditedLatent:
    """`ws` `[N, num_ws, w_dim]` and what is added to its styles, `[N or 1, channels]` by layer."""

    ws: torch.Tensor
    styles: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def render(self, G: nn.Module, noise_mode: str = "const") -> torch.Tensor:
        """Pictures `[N, C, H, W]`, float32, nominally in [−1, 1]."""
        own = styles_of(G, self.ws)
        changed = {name: own[name] + extra for name, extra in self.styles.items()}
        pictures = []
        for first in range(0, len(self.ws), pictures_at_once(G)):
            part = slice(first, first + pictures_at_once(G))
            with replaced_styles(G, {name: style[part] for name, style in changed.items()}):
                pictures.append(G.synthesis(self.ws[part], noise_mode=noise_mode))
        return torch.cat(pictures)

    @torch.no_grad()
    def folded(self, G: nn.Module) -> EditedLatent:
        """The same pictures from `ws` alone, where the network allows it; else itself.

        Each layer of a StyleGAN3 reads a row of its own, so a row can be chosen that gives the
        styles: w + A⁺·(s' − s), as long as A has full rank. Layers of a StyleGAN2 share rows.
        """
        if not self.styles:
            return self
        ws, wanted = self.ws.clone(), styles_of(G, self.ws)
        for layer in style_layers(G):
            if layer.name in self.styles:
                wanted[layer.name] = wanted[layer.name] + self.styles[layer.name]
                weight = layer.module.affine.weight.double() * layer.module.affine.weight_gain
                step = self.styles[layer.name].double() @ torch.linalg.pinv(weight).T
                ws[:, layer.ws_row] += step.float()
        found = styles_of(G, ws)
        close = all(
            (found[name] - style).abs().max() <= FOLDING_ERROR * style.abs().max()
            for name, style in wanted.items()
        )
        return EditedLatent(ws) if close else self


def apply_directions(
    latent: EditedLatent | torch.Tensor, edits: Sequence[tuple[Direction, float]]
) -> EditedLatent:
    """`latent` (or ws `[N, num_ws, w_dim]`) with Σ alpha · direction added."""
    if isinstance(latent, torch.Tensor):
        latent = EditedLatent(latent)
    ws, styles = latent.ws, dict(latent.styles)
    for direction, alpha in edits:
        if direction.ws is not None:
            if direction.ws.shape != ws.shape[1:]:
                raise UserError(
                    f"direction {direction.name!r}: got shape {list(direction.ws.shape)}, expected "
                    f"{list(ws.shape[1:])}; it was made for another network"
                )
            ws = ws + alpha * direction.ws.to(ws)
        for name, step in direction.styles.items():
            styles[name] = styles.get(name, 0) + alpha * step.to(ws)[None]
    return EditedLatent(ws, styles)


@dataclass(frozen=True)
class EditStep:
    """One point of a sweep: `alphas` of the edits, `latent`, its pictures `[N, C, H, W]`."""

    index: int
    count: int
    alphas: tuple[float, ...]
    latent: EditedLatent
    images: torch.Tensor = field(repr=False, compare=False)


def sweep(
    G: nn.Module,
    latent: EditedLatent | torch.Tensor,
    edits: Sequence[tuple[Direction, float, float]],
    count: int,
) -> Iterator[EditStep]:
    """Yield `count` points from the first alpha of every edit (direction, first, last) to its last.

    All edits move together; one point is the last.
    """
    if count < 1:
        raise ValueError(f"count: got {count}, expected at least 1")
    for index in range(count):
        share = index / (count - 1) if count > 1 else 1.0
        alphas = tuple((1 - share) * first + share * last for _, first, last in edits)
        directions = [direction for direction, _, _ in edits]
        edited = apply_directions(latent, list(zip(directions, alphas, strict=True)))
        yield EditStep(index, count, alphas, edited, edited.render(G))
