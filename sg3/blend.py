"""Layer-wise blending: coarse layers of one generator, fine ones of another (arXiv 2010.05334)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import nn

from sg3.checkpoints.delta import check_alike
from sg3.errors import UserError
from sg3.networks.layer_units import layer_names, select_layers, tensors_by_layer


def split_shares(G: nn.Module, split: str, width: float = 0) -> dict[str, float]:
    """Shares of the second network by layer: 0 below layer `split`, 1 from it on.

    With a `width`, shares rise in a straight line over about so many layers around the split.
    Raises UserError for an unknown layer or a negative width.
    """
    names = layer_names(G)
    if split not in names:
        raise UserError(f"split: got {split!r}, expected one of {', '.join(names)}")
    if not (math.isfinite(width) and width >= 0):
        raise UserError(f"width: got {width}, expected a number of layers from 0")
    # The split lies half a layer before its layer, so that its neighbours rise symmetrically.
    distances = {name: i - names.index(split) + 0.5 for i, name in enumerate(names)}
    slope = 1 / max(width, 1)
    return {name: min(max(0.5 + d * slope, 0.0), 1.0) for name, d in distances.items()}


def listed_shares(G: nn.Module, layers: str) -> dict[str, float]:
    """Share 1 for what `layers` names ("L0-L3,torgb", also "mapping"), 0 for the rest.

    Raises ValueError for a name that is no layer.
    """
    names = ["mapping", *layer_names(G)]
    chosen = {names[i] for i in select_layers(names, layers)}
    return {name: float(name in chosen) for name in names}


def blend(a: nn.Module, b: nn.Module, shares: Mapping[str, float]) -> nn.Module:
    """A new generator: every layer is (1 − share) of `a`'s and share of `b`'s.

    `shares` by name of `layer_names`, or "mapping"; what it leaves out is `a`'s. A layer's tensors
    go together, its affine and statistics too; shares 0 and 1 take over every bit. Raises
    UserError where the networks do not match, for unknown names and for shares outside 0 … 1.
    """
    check_alike(a, b, ("the first network", "the second network"))
    tensors = tensors_by_layer(a)
    for name, share in shares.items():
        if name not in tensors:
            raise UserError(f"shares: got {name!r}, expected names of {', '.join(tensors)}")
        if not 0 <= share <= 1:
            raise UserError(f"shares: got {share} for {name}, expected 0 to 1")
    result = copy.deepcopy(a)
    blended, other = result.state_dict(), b.state_dict()
    with torch.no_grad():
        for layer, share in shares.items():
            for name in tensors[layer] if share else ():
                ours, theirs = blended[name], other[name].to(blended[name])
                mixed = theirs if share == 1 else ours.double().lerp(theirs.double(), share)
                ours.copy_(mixed)
    return result
