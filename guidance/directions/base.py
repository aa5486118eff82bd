"""Directions of latents, and sweeps along them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from guidance.generator import generator_of
from guidance.render import EditedLatent
from guidance.style_space import style_layers
from sg3.checkpoints import Networks
from sg3.errors import UserError
from sg3.media import ImageStep, ImageTensor
from sg3.networks.generator import MappedGenerator
from sg3.progress import with_bar

#: A direction, and its alphas at the first and the last point of a sweep.
Edit = tuple["Direction", float, float]


@dataclass(frozen=True)
class Direction:
    """A direction in W and in style space.

    Attributes:
        name: what the direction changes.
        ws: what alpha 1 adds to a latent, `[num_ws, w_dim]`; None for nothing.
        styles: what alpha 1 adds to the styles, `[channels]` by layer.
        info: JSON-able facts, such as the number of channels or the accuracy on held-out labels.
    """

    name: str
    ws: torch.Tensor | None = None
    styles: Mapping[str, torch.Tensor] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def on_rows(self, G: MappedGenerator, rows: Collection[int]) -> Direction:
        """This direction restricted to the layers that read these rows of ws."""
        kept = {layer.name for layer in style_layers(G) if layer.ws_row in rows}
        styles = {name: style for name, style in self.styles.items() if name in kept}
        ws = self.ws
        if ws is not None:
            mask = torch.tensor([row in rows for row in range(len(ws))], device=ws.device)
            ws = ws * mask[:, None]
        return replace(self, ws=ws, styles=styles)


def apply_directions(
    latent: EditedLatent | torch.Tensor, edits: Sequence[tuple[Direction, float]]
) -> EditedLatent:
    """Add Σ alpha · direction to a latent or ws `[N, num_ws, w_dim]`.

    Raises ValueError for a direction of another shape.
    """
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
class EditStep(ImageStep):
    """One point of a sweep.

    Attributes:
        index: number of the point.
        count: number of points.
        alphas: strength of each edit.
        latent: the edited latents.
        image: their images `[N, C, H, W]`, nominally in [−1, 1].
    """

    index: int
    count: int
    alphas: tuple[float, ...]
    latent: EditedLatent
    image: ImageTensor = field(repr=False, compare=False)


def sweep(
    network: Networks | nn.Module,
    latent: EditedLatent | torch.Tensor,
    edits: Sequence[Edit],
    count: int,
    progress: bool = False,
) -> Iterator[EditStep]:
    """Yield `count` points from the first alpha of every edit to its last.

    All edits change together. A single point is that of the last alphas.

    Args:
        network: networks of `sg3.load`, or a generator.
        latent: a latent or ws `[N, num_ws, w_dim]`.
        edits: (direction, first alpha, last alpha) each.
        count: number of points.
        progress: show a progress bar.

    Raises ValueError if `count` is below 1.

    Example:
        >>> import guidance, sg3
        >>> G = sg3.load("mini-faces").G_ema
        >>> ws = guidance.map_latents(G, guidance.seed_latents(3, 1, G.z_dim))
        >>> smile = guidance.text_direction(
        ...     guidance.find_relevance(G, "mini"), "mini", "a smiling face", beta=0.2
        ... )
        >>> [step.alphas for step in guidance.sweep(G, ws, [(smile, 0, 4)], count=3)]
        [(0.0,), (2.0,), (4.0,)]
    """
    if count < 1:
        raise ValueError(f"count: got {count}, expected at least 1")
    return with_bar(_sweep(generator_of(network), latent, edits, count), count, "sweep", progress)


def _sweep(
    G: MappedGenerator, latent: EditedLatent | torch.Tensor, edits: Sequence[Edit], count: int
) -> Iterator[EditStep]:
    for index in range(count):
        t = index / (count - 1) if count > 1 else 1.0
        alphas = tuple((1 - t) * first + t * last for _, first, last in edits)
        directions = [direction for direction, _, _ in edits]
        edited = apply_directions(latent, list(zip(directions, alphas, strict=True)))
        yield EditStep(index, count, alphas, edited, ImageTensor.of(edited.render(G)))
