"""From a kind and constructor arguments, as files record them, to a network."""

from __future__ import annotations

import importlib
import inspect

from torch import nn

#: kind → where its class lives. Files name kinds, never code.
KINDS = {
    "stylegan3": ("sg3.networks.stylegan3", "Generator"),
    "stylegan2": ("sg3.networks.stylegan2", "Generator"),
    "discriminator": ("sg3.networks.discriminator", "Discriminator"),
    "augment": ("sg3.networks.augment", "AugmentPipe"),
    "augment_pipe": ("sg3.networks.augment", "AugmentPipe"),  # the same by its part's name
}


def build_network(kind: str, kwargs: dict) -> nn.Module:
    """Construct a network of `kind` (a key of `KINDS`) with random weights.

    The result carries `kind` and `init_kwargs`, from which the same call rebuilds it.
    Raises ValueError for an unknown kind, unknown arguments or values that do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    module, name = KINDS[kind]
    network_class = getattr(importlib.import_module(module), name)
    try:
        inspect.signature(network_class).bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"arguments of {kind}: {error}") from None
    try:
        network = network_class(**kwargs)
    except TypeError as error:  # an argument of an inner network, or a value of a wrong type
        raise ValueError(f"arguments of {kind}: {error}") from None
    network.kind, network.init_kwargs = kind, dict(kwargs)
    return network
