"""Construction of networks from a kind and constructor arguments, as network files store them."""

from __future__ import annotations

import importlib
import inspect

from torch import nn

#: Kind → module and class. Files store the kind, never a class path.
KINDS = {
    "stylegan3": ("sg3.networks.stylegan3", "Generator"),
    "stylegan2": ("sg3.networks.stylegan2", "Generator"),
    "discriminator": ("sg3.networks.discriminator", "Discriminator"),
    "projected": ("sg3.networks.projected", "ProjectedDiscriminator"),
    "augment": ("sg3.networks.augment", "AugmentPipe"),
    "augment_pipe": (
        "sg3.networks.augment",
        "AugmentPipe",
    ),  # alias: the name of the part in `Networks`
    "diffaugment": ("sg3.networks.diffaugment", "DiffAugment"),
}


def build_network(kind: str, kwargs: dict) -> nn.Module:
    """Construct a network with random weights.

    Args:
        kind: "stylegan3", "stylegan2", "discriminator", "projected", "augment" or
            "diffaugment".
        kwargs: constructor arguments of `sg3.networks.stylegan3.Generator`,
            `sg3.networks.stylegan2.Generator`, `sg3.networks.discriminator.Discriminator`,
            `sg3.networks.projected.ProjectedDiscriminator`, `sg3.networks.augment.AugmentPipe` or
            `sg3.networks.diffaugment.DiffAugment`.

    Returns:
        The network, with the attributes `kind` and `init_kwargs`, which `sg3.save` stores.

    Raises:
        ValueError: unknown kind, unknown arguments or invalid values.

    Example:
        >>> from sg3.networks import build_network
        >>> G = build_network("stylegan3", {"z_dim": 64, "c_dim": 0, "w_dim": 64,
        ...     "img_resolution": 64, "img_channels": 3, "channel_base": 2048, "channel_max": 64})
        >>> G.img_resolution
        64
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
    except TypeError as error:  # raised by an inner network, or for a wrong type
        raise ValueError(f"arguments of {kind}: {error}") from None
    network.kind, network.init_kwargs = kind, dict(kwargs)
    return network
