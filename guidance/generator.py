"""The generator that a function of this package works on."""

from __future__ import annotations

from torch import nn

from sg3.checkpoints import Networks
from sg3.errors import UserError


def generator_of(network: Networks | nn.Module) -> nn.Module:
    """`network` itself, or the G_ema of `Networks`. Raises ValueError if they have none."""
    if not isinstance(network, Networks):
        return network
    if network.G_ema is None:
        name = network.meta.get("name", "these networks")
        raise UserError(f"network: {name} has no generator G_ema; expected a file with one")
    return network.G_ema
