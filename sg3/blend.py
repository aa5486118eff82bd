"""Layer-wise blending: coarse layers of one generator, fine ones of another (arXiv 2010.05334)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import nn

from sg3.checkpoints.delta import check_alike
from sg3.devices import precise
from sg3.errors import UserError
from sg3.networks.layer_units import layer_names, select_layers, tensors_by_layer


def split_fractions(G: nn.Module, split: str, width: float = 0) -> dict[str, float]:
    """Return the fraction of the second network by layer: 0 before layer `split`, 1 from it on.

    Args:
        G: a generator, for the names of its layers.
        split: name of the first layer of the second network.
        width: number of layers around the split over which fractions increase linearly.

    Raises:
        ValueError: unknown layer or negative width.
    """
    names = layer_names(G)
    if split not in names:
        raise UserError(f"split: got {split!r}, expected one of {', '.join(names)}")
    if not (math.isfinite(width) and width >= 0):
        raise UserError(f"width: got {width}, expected at least 0")
    # The split lies half a layer before its layer, so that the transition is symmetric.
    distances = {name: i - names.index(split) + 0.5 for i, name in enumerate(names)}
    slope = 1 / max(width, 1)
    return {name: min(max(0.5 + d * slope, 0.0), 1.0) for name, d in distances.items()}


def layer_fractions(G: nn.Module, layers: str) -> dict[str, float]:
    """Return fraction 1 for the listed layers ("L0-L3,torgb", also "mapping"), 0 for others.

    Raises ValueError for an unknown layer.
    """
    names = ["mapping", *layer_names(G)]
    chosen = {names[i] for i in select_layers(names, layers)}
    return {name: float(name in chosen) for name in names}


def blend(a: nn.Module, b: nn.Module, fractions: Mapping[str, float]) -> nn.Module:
    """Return a new generator that interpolates between the layers of `a` and `b`.

    All tensors of a layer are interpolated together, including its affine layer and statistics.
    Fractions 0 and 1 copy a layer bit for bit.

    Args:
        a, b: generators of the same shapes.
        fractions: fraction of `b` by layer name (`layer_names`, or "mapping"). Layers that are
            missing come from `a`.

    Raises:
        ValueError: the networks do not match, unknown names, or fractions outside [0, 1].
    """
    check_alike(a, b, ("the first network", "the second network"))
    tensors = tensors_by_layer(a)
    for name, fraction in fractions.items():
        if name not in tensors:
            raise UserError(f"fractions: got {name!r}, expected names of {', '.join(tensors)}")
        if not 0 <= fraction <= 1:
            raise UserError(f"fractions: got {fraction} for {name}, expected 0 to 1")
    result = copy.deepcopy(a)
    blended, other = result.state_dict(), b.state_dict()
    with torch.no_grad():
        for layer, fraction in fractions.items():
            for name in tensors[layer] if fraction else ():
                ours, theirs = blended[name], other[name].to(blended[name])
                mixed = theirs if fraction == 1 else precise(ours).lerp(precise(theirs), fraction)
                ours.copy_(mixed)
    return result
