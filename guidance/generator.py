"""The generator that a function of this package works on."""

from __future__ import annotations

from typing import cast

from torch import nn

from sg3.checkpoints import Networks
from sg3.errors import UserError
from sg3.networks.generator import MappedGenerator


def generator_of(network: Networks | nn.Module) -> MappedGenerator:
    """`network` itself, or the G_ema of `Networks`. Raises ValueError if they have none."""
    if not isinstance(network, Networks):
        G = network
    elif network.G_ema is None:
        name = network.meta.get("name", "these networks")
        raise UserError(f"network: {name} has no generator G_ema; expected a file with one")
    else:
        G = network.G_ema
    if not hasattr(G, "synthesis"):
        raise UserError(
            f"network: got {type(G).__name__}, expected networks of sg3.load or a generator"
        )
    # Other classes with the same attributes work too, as long as style space is not needed.
    return cast(MappedGenerator, G)
