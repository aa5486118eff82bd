"""Style space (`sg3.networks.style_space`), and rendering only the layers after a change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from sg3.devices import precise
from sg3.errors import UserError
from sg3.networks.generator import MappedGenerator
from sg3.networks.layer_units import select_layers, units_of
from sg3.networks.style_space import (
    StyleLayer,
    added_styles,
    replaced_styles,
    style_layers,
    styles_of,
)

__all__ = [
    "StyleLayer",
    "added_styles",
    "affine_weight",
    "layer_outputs",
    "replaced_styles",
    "resumed",
    "rows_of_layers",
    "style_layers",
    "styles_of",
]


def rows_of_layers(G: MappedGenerator, text: str) -> set[int]:
    """Rows of ws named by `"2-5,7"` (row numbers) or `"L3-L5,torgb"` (layer names).

    Raises ValueError for a row or layer that does not exist.
    """
    if not re.fullmatch(r"[\d\s,-]+", text):
        units = units_of(G)
        chosen = select_layers([unit.name for unit in units], text, ["rows such as 4-6"])
        return {row for i in chosen for row in units[i].ws_rows}
    rows: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first = int(match[1]) if match else -1
        last = int(match[2]) if match and match[2] else first
        if not 0 <= first <= last < G.num_ws:
            raise UserError(
                f"layers: got {part.strip()!r}, expected rows 0 to {G.num_ws - 1} like 2-5,7, or "
                "names of layers"
            )
        rows |= set(range(first, last + 1))
    return rows


def affine_weight(layer: StyleLayer, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Effective weight of the affine layer, `[channels, w_dim]`; float64 as `precise` has it."""
    given = layer.affine.weight
    weight = precise(given) if dtype == torch.float64 else given.to(dtype)
    return weight * layer.affine.weight_gain


@torch.no_grad()
def layer_outputs(
    G: MappedGenerator, layers: Sequence[StyleLayer], ws: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Images of `ws` `[N, num_ws, w_dim]`, and the outputs of `layers` by name."""
    outputs: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:

            def keep(module, args, output, name=layer.name):
                outputs[name] = output

            stack.callback(layer.module.register_forward_hook(keep).remove)
        images = G.synthesis(ws, noise_mode="const")
    return images, outputs


@contextmanager
def resumed(
    layers: Sequence[StyleLayer], first: int, outputs: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Context manager that skips layers before `first` and returns their cached `outputs`.

    Args:
        layers: all layers, in the order in which they run.
        first: number of the first layer that runs.
        outputs: `layer_outputs` of one latent. From `first` on, its features are repeated for each
            of the latents that are rendered.
    """
    with ExitStack() as stack:
        for layer in layers[:first]:
            # An attribute of the instance is found before the method of its class.
            layer.module.forward = _returning(outputs[layer.name])
            stack.callback(delattr, layer.module, "forward")
        for layer in layers[first:]:
            stack.callback(layer.module.register_forward_pre_hook(_repeat).remove)
        yield


def _returning(output: torch.Tensor):
    return lambda *args, **kwargs: output


def _repeat(module: nn.Module, args: tuple) -> tuple:
    """Repeat the features of one image for every row of w.

    The input layer of a StyleGAN3 has no features, only w.
    """
    if len(args) < 2:
        return args
    x, w, *rest = args
    return (x.expand(len(w), -1, -1, -1), w, *rest)
