"""The spaces that steering optimizes in, and the latents that their coordinates decode to.

w, w+   whitened coordinates of ws, shared by all layers or one set per layer
s       the styles of every layer except ToRGB (StyleSpace, arXiv 2011.12799)

With either, the four parameters of a StyleGAN3's input transform can be optimized too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce

import torch
from torch import nn

from guidance.latents import MOVE, LatentSpace, latent_statistics
from guidance.render import EditedLatent
from guidance.steering.config import SteerConfig
from guidance.style_space import StyleLayer, affine_weight, style_layers, styles_of
from sg3.errors import UserError
from sg3.networks import stylegan3
from sg3.networks.generator import MappedGenerator
from sg3.settings import ClassLabel

#: "latent" or "styles", and perhaps "transform" → values `[B, ...]`.
Coordinates = dict[str, torch.Tensor]


class StyleCoordinates:
    """Styles around a start, standardized by their mean and standard deviation over W."""

    def __init__(
        self,
        G: MappedGenerator,
        start: EditedLatent,
        layers: list[StyleLayer],
        class_index: ClassLabel | None,
    ):
        self.layers, self.ws, self.before = layers, start.ws, start.styles
        everything = latent_statistics(G, G.w_dim, class_index)
        found = styles_of(G, start.ws)
        mean = styles_of(G, everything.mean.expand(1, G.num_ws, -1))
        stds, places = [], []
        for layer in layers:
            # Styles are affine in w, so their variances follow from those of W.
            spread = affine_weight(layer, torch.float32) @ everything.components.T
            stds.append((spread.square() @ everything.variances).sqrt().clamp_min(1e-8))
            style = found[layer.name] + start.styles.get(layer.name, 0)
            places.append((style - mean[layer.name]) / stds[-1])
        self.std, self.start = torch.cat(stds), torch.cat(places, dim=1)  # [C], [B, C]

    def decode(self, coordinates: torch.Tensor) -> dict[str, torch.Tensor]:
        """Decode `coordinates` `[B, C]` to offsets of the styles of ws, by layer."""
        parts = ((coordinates - self.start) * self.std).split(
            [layer.channels for layer in self.layers], dim=1
        )
        names = [layer.name for layer in self.layers]
        return {n: p + self.before.get(n, 0) for n, p in zip(names, parts, strict=True)}

    def square(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Mean square `[B]`, about 1 for latents of W."""
        return coordinates.square().mean(dim=1)

    @torch.no_grad()
    def bound_(self, coordinates: torch.Tensor, max_sigma: float | torch.Tensor) -> None:
        """Shrink `coordinates` in place until the root of `square` is at most `max_sigma`."""
        limit = torch.as_tensor(max_sigma, dtype=coordinates.dtype, device=coordinates.device)
        if limit.any():
            factor = (limit / self.square(coordinates).sqrt().clamp_min(1e-12)).clamp_max(1)
            coordinates.mul_(factor[:, None])


def check_space(G: MappedGenerator, config: SteerConfig) -> None:
    """Raise ValueError if `G` lacks the style space or input transform that `config` needs."""
    if config.space == "s":
        style_layers(G)
    if config.transform != "follow" and not isinstance(G, stylegan3.Generator):
        raise UserError("transform: only StyleGAN3 networks have an input transform")


class Movable:
    """The optimized coordinates of B latents. Decoding `start` gives `latent`.

    Args:
        G: the generator.
        latent: where the run starts.
        config: settings of the run.
        rows: rows of ws whose layers may change; None for all.

    Raises ValueError if nothing is left to optimize, or as `check_space` does.
    """

    def __init__(
        self,
        G: MappedGenerator,
        latent: EditedLatent,
        config: SteerConfig,
        rows: Collection[int] | None = None,
    ):
        check_space(G, config)
        self.latent, self.config = latent, config
        self.statistics = latent_statistics(G, config.components, config.class_index)
        self.start: Coordinates = {}
        if config.space == "s":
            layers = [
                layer
                for layer in style_layers(G)
                if not (layer.to_rgb or layer.is_input) and (rows is None or layer.ws_row in rows)
            ]
            if not layers:
                raise UserError(
                    f"layers: got {config.layers!r}, expected at least one with styles that space "
                    "s can change"
                )
            self.styles = StyleCoordinates(G, latent, layers, config.class_index)
            self.start["styles"] = self.styles.start
        else:
            per_layer = config.space == "w+"
            self.space = LatentSpace(self.statistics, latent.ws, config.basis, per_layer, rows)
            self.start["latent"] = self.space.start
        self.input: nn.Module | None = None
        if config.transform != "follow":
            self.input = G.synthesis.get_submodule("input.affine")
            with torch.no_grad():
                self.placed = self.input(latent.ws[:, 0])  # [B, 4]
            if config.transform == "free":
                self.start["transform"] = torch.zeros_like(self.placed)

    def decode(self, coordinates: Mapping[str, torch.Tensor]) -> EditedLatent:
        """The latents that `coordinates` stand for; differentiable."""
        ws, styles = self.latent.ws, dict(self.latent.styles)
        if "latent" in coordinates:
            ws = self.space.decode(coordinates["latent"])
        else:
            styles |= self.styles.decode(coordinates["styles"])
        if self.input is not None:
            added = self.latent.styles.get("input", 0)
            if "transform" in coordinates:
                # The input layer divides all four by the length of the first two (the rotation),
                # so that length is the unit.
                unit = MOVE * self.placed[:, :2].norm(dim=1, keepdim=True)
                styles["input"] = added + coordinates["transform"] * unit
            else:
                styles["input"] = added + self.placed - self.input(ws[:, 0])
        return EditedLatent(ws, styles)

    def prior(self, coordinates: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared distance from the mean of W, `[B]`."""
        if "latent" in coordinates:
            return self.space.square(coordinates["latent"])
        return self.styles.square(coordinates["styles"])

    def sigma(self, coordinates: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Distance from the mean of W in standard deviations, `[B]`."""
        return self.prior(coordinates).sqrt()

    def bound_(
        self, coordinates: Mapping[str, torch.Tensor], max_sigma: float | torch.Tensor
    ) -> None:
        """Shrink `coordinates` in place until `sigma` is at most `max_sigma`; 0 = no limit."""
        if "latent" in coordinates:
            self.space.bound_(coordinates["latent"], max_sigma)
        else:
            self.styles.bound_(coordinates["styles"], max_sigma)

    def change(self, coordinates: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared change since `start`, `[B]`, plus that of the transform."""
        changes = [(coordinates[name] - place) for name, place in self.start.items()]
        return reduce(torch.add, [change.flatten(1).square().mean(dim=1) for change in changes])

    def space_around(self, anchors: torch.Tensor) -> LatentSpace | None:
        """The same space around other latents `[N, num_ws, w_dim]`; None in space s."""
        if self.config.space == "s":
            return None
        per_layer = self.config.space == "w+"
        return LatentSpace(self.statistics, anchors, self.config.basis, per_layer, self.space.rows)

    def move_start(self, base: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Move the start of space w or w+; return the displacement of its coordinates.

        Args:
            base: new `LatentSpace.base`.
            start: new coordinates of the start, `[B, 1 or R, D]`.
        """
        shift = start - self.start["latent"]
        self.space.base, self.start["latent"] = base, start
        return shift
