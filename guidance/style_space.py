"""Style space (`sg3.networks.style_space`), and running only the layers that a change reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

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
    "layer_outputs",
    "replaced_styles",
    "resumed",
    "style_layers",
    "styles_of",
]


@torch.no_grad()
def layer_outputs(
    G: nn.Module, layers: Sequence[StyleLayer], ws: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pictures of `ws`, and what each of `layers` put out on the way."""
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
    """Within the block, layers before number `first` do not run: they hand out `outputs`.

    These are of one picture (`layer_outputs` of ws `[1, num_ws, w_dim]`); from `first` on it is
    as many as ws has rows.
    """
    with ExitStack() as stack:
        for layer in layers[:first]:
            # An attribute of the instance is found before the method of its class.
            layer.module.forward = _handing_out(outputs[layer.name])
            stack.callback(delattr, layer.module, "forward")
        for layer in layers[first:]:
            stack.callback(layer.module.register_forward_pre_hook(_spread).remove)
        yield


def _handing_out(output: torch.Tensor):
    return lambda *args, **kwargs: output


def _spread(module, args):
    """One picture's features for every row of w. The input of a StyleGAN3 reads only w."""
    if len(args) < 2:
        return args
    x, w, *rest = args
    return (x.expand(len(w), -1, -1, -1), w, *rest)
