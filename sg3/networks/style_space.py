"""Style space S: the outputs of the affine layers, one value per channel of each layer.

    s = styles_of(G, ws)                        # {"L0": [N, channels], …}
    s["L3"][:, 17] += 4
    with replaced_styles(G, s):
        images = G.synthesis(ws)

Channels of S are more disentangled than components of W (StyleSpace, arXiv 2011.12799). Works for
StyleGAN3 and StyleGAN2: forward hooks on the affine layers replace their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from sg3.errors import UserError
from sg3.networks import stylegan2, stylegan3
from sg3.networks.layer_units import units_of
from sg3.networks.layers import FullyConnectedLayer


@dataclass(frozen=True)
class StyleLayer:
    """A layer with a style.

    Attributes:
        name: layer name, as in `sg3.networks.layer_units`.
        module: the layer.
        ws_row: row of ws that it reads.
        channels: size of its style.
        resolution: pixels per larger side of its output, without margins.
        to_rgb: whether it maps features to colours.
        is_input: the input of a StyleGAN3; its style is four values of rotation and translation.
    """

    name: str
    module: nn.Module
    ws_row: int
    channels: int
    resolution: int
    to_rgb: bool
    is_input: bool

    @property
    def affine(self) -> FullyConnectedLayer:
        """The affine layer that computes the style from a row of ws."""
        affine = self.module.get_submodule("affine")
        assert isinstance(affine, FullyConnectedLayer)
        return affine


def style_layers(G: nn.Module) -> list[StyleLayer]:
    """Return the layers of `G` that have a style, in the order in which they run.

    Raises ValueError for a network that is neither a StyleGAN3 nor a StyleGAN2 generator.
    """
    if isinstance(G, stylegan3.Generator):
        source = G.synthesis.plans[0].source
        rates = [source.sampling_rate, *(p.target.sampling_rate for p in G.synthesis.plans)]
        resolutions = {u.name: int(r) for u, r in zip(units_of(G), rates, strict=True)}
    elif isinstance(G, stylegan2.Generator):
        resolutions = {u.name: int(u.name.split(".")[0][1:]) for u in units_of(G)}
    else:
        raise UserError(
            f"network: a {type(G).__name__} has no style space; expected a StyleGAN3 or StyleGAN2"
        )
    layers = []
    for unit in units_of(G):
        if unit.ws_rows:
            path = unit.tensors[0].rpartition(".")[0]
            channels = len(G.get_parameter(f"{path}.affine.weight"))
            layers.append(
                StyleLayer(
                    name=unit.name,
                    module=G.get_submodule(path),
                    ws_row=unit.ws_rows[0],
                    channels=channels,
                    resolution=resolutions[unit.name],
                    to_rgb=unit.to_rgb,
                    is_input=unit.name == "input",
                )
            )
    return layers


def styles_of(G: nn.Module, ws: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the styles `[N, channels]` of `ws` `[N, num_ws, w_dim]` by layer name."""
    return {layer.name: layer.affine(ws[:, layer.ws_row]) for layer in style_layers(G)}


@contextmanager
def replaced_styles(G: nn.Module, styles: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Replace the styles of the named layers by `styles` `[N or 1, channels]` within the block.

    Gradients flow to `styles`. Raises ValueError for an unknown layer or another shape.
    """
    with _hooked(G, styles, lambda output, style: style.to(output).expand(len(output), -1)):
        yield


@contextmanager
def added_styles(G: nn.Module, styles: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Add `styles` `[N or 1, channels]` to those of the named layers within the block.

    Gradients flow to `styles`. Raises ValueError as `replaced_styles` does.
    """
    with _hooked(G, styles, lambda output, style: output + style.to(output)):
        yield


@contextmanager
def _hooked(G: nn.Module, styles: Mapping[str, torch.Tensor], change) -> Iterator[None]:
    if not styles:  # also valid for networks without a style space
        yield
        return
    layers = {layer.name: layer for layer in style_layers(G)}
    with ExitStack() as stack:
        for name, style in styles.items():
            if name not in layers:
                raise UserError(f"styles: got layer {name!r}, expected {', '.join(layers)}")
            layer = layers[name]
            if style.ndim != 2 or style.shape[1] != layer.channels:
                raise UserError(
                    f"styles: {name} got shape {list(style.shape)}, expected [N, {layer.channels}]"
                )
            handle = layer.affine.register_forward_hook(_changing(style, change))
            stack.callback(handle.remove)
        yield


def _changing(style: torch.Tensor, change):
    def hook(module, args, output):
        return change(output, style)

    return hook
