"""Style space: the outputs of the affine layers, one number per channel of every layer.

    s = styles_of(G, ws)                        # {"L0": [N, channels], …}
    s["L3"][:, 17] += 4
    with replaced_styles(G, s):
        images = G.synthesis(ws)

Channels of S are more disentangled than numbers of W (StyleSpace, arXiv 2011.12799). The same for
StyleGAN3 and StyleGAN2: whatever calls an affine layer meets the replaced numbers.
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


@dataclass(frozen=True)
class StyleLayer:
    """A layer that reads styles. `ws_row`: the row of ws it reads; `channels` of its style;
    `resolution`: pixels per larger side of the picture at its output (margins left out).

    The input of a StyleGAN3 (`is_input`) has four numbers, its rotation and translation; styles of
    `to_rgb` layers only scale what becomes colour.
    """

    name: str
    module: nn.Module
    ws_row: int
    channels: int
    resolution: int
    to_rgb: bool
    is_input: bool


def style_layers(G: nn.Module) -> list[StyleLayer]:
    """The layers of `G` that read styles, in the order in which they run.

    Raises UserError for a network that is neither a StyleGAN3 nor a StyleGAN2.
    """
    if isinstance(G, stylegan3.Generator):
        source = G.synthesis.plans[0].source
        rates = [source.sampling_rate, *(p.target.sampling_rate for p in G.synthesis.plans)]
        resolutions = dict(zip((u.name for u in units_of(G)), rates, strict=True))
    elif isinstance(G, stylegan2.Generator):
        resolutions = {u.name: int(u.name.split(".")[0][1:]) for u in units_of(G)}
    else:
        raise UserError(
            f"network: a {type(G).__name__} has no style space; expected a StyleGAN3 or StyleGAN2"
        )
    layers = []
    for unit in units_of(G):
        if unit.ws_rows:
            module = G.get_submodule(unit.tensors[0].rpartition(".")[0])
            channels, resolution = module.affine.out_features, int(resolutions[unit.name])
            shape = (module, unit.ws_rows[0], channels, resolution)
            layers.append(StyleLayer(unit.name, *shape, unit.to_rgb, unit.name == "input"))
    return layers


def styles_of(G: nn.Module, ws: torch.Tensor) -> dict[str, torch.Tensor]:
    """`ws` `[N, num_ws, w_dim]` → styles `[N, channels]` by the name of their layer."""
    return {layer.name: layer.module.affine(ws[:, layer.ws_row]) for layer in style_layers(G)}


@contextmanager
def replaced_styles(G: nn.Module, styles: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within the block, layers named in `styles` use these `[N or 1, channels]`, whatever ws is.

    Gradients flow to `styles`. Raises UserError for an unknown layer or another shape.
    """
    with _hooked(G, styles, lambda output, style: style.to(output).expand(len(output), -1)):
        yield


@contextmanager
def added_styles(G: nn.Module, styles: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within the block, these `[N or 1, channels]` are added to what the named layers use.

    Gradients flow to `styles`. Raises UserError as `replaced_styles` does.
    """
    with _hooked(G, styles, lambda output, style: output + style.to(output)):
        yield


@contextmanager
def _hooked(G: nn.Module, styles: Mapping[str, torch.Tensor], change) -> Iterator[None]:
    if not styles:  # networks without style space need none
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
            handle = layer.module.affine.register_forward_hook(_changing(style, change))
            stack.callback(handle.remove)
        yield


def _changing(style: torch.Tensor, change):
    def hook(module, args, output):
        return change(output, style)

    return hook
