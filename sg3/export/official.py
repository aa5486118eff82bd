"""`sg3 convert --layout official`: what the official classes need to hold our networks.

The file is a torch archive of plain data. A script inside the official repository (docs/EXPORT.md)
builds the classes from it and pickles them, as only code that has those classes can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sg3.checkpoints.networks import Networks
from sg3.checkpoints.official_kwargs import (
    AUGMENT,
    DISCRIMINATOR,
    DISCRIMINATOR_NESTED,
    DISCRIMINATOR_ORDER,
    GENERATOR,
    GENERATOR_ORDER,
    MAPPING,
)
from sg3.errors import UserError
from sg3.export.widen import widened
from sg3.networks.build import build_network

#: Kind → class of the official repository.
CLASSES = {
    "stylegan3": "training.networks_stylegan3.Generator",
    "stylegan2": "training.networks_stylegan2.Generator",
    "discriminator": "training.networks_stylegan2.Discriminator",
    "augment": "training.augment.AugmentPipe",
    "augment_pipe": "training.augment.AugmentPipe",
}
#: Arguments without effect on a trained network, which official classes may lack.
WITHOUT_EFFECT = {"divide_bias", "fused_modconv_default", "fp16_channels_last"}
#: Seed of the discriminator that stands in for a missing one.
SEED = 0


def official_content(nets: Networks) -> tuple[dict[str, Any], list[str]]:
    """Return the content of the file, and notes on what differs from `nets`.

    The content has the keys of official pickles: G, D and G_ema, `augment_pipe` or None, and
    `training_set_kwargs` or None. A network is `{"class", "kwargs", "state_dict"}`.

    Raises ValueError for networks that the official classes cannot hold.
    """
    notes: list[str] = []
    parts: dict[str, Any] = nets.parts()
    content: dict[str, Any] = {"G_ema": _part("G_ema", parts["G_ema"], notes)}
    if "G" in parts:
        content["G"] = _part("G", parts["G"], [])
    else:
        content["G"] = content["G_ema"]
        notes.append("G: the file has none; G_ema stands in for it")
    if "D" in parts and parts["D"].kind == "discriminator":
        content["D"] = _part("D", parts["D"], notes)
    else:
        content["D"] = _part("D", _untrained_discriminator(parts["G_ema"]), notes)
        notes.append("D: the file has none that the official code knows; an untrained one is there")
    pipe = parts.get("augment_pipe")
    is_ada = pipe is not None and CLASSES.get(pipe.kind) == CLASSES["augment"]
    content["augment_pipe"] = _part("augment_pipe", pipe, notes) if is_ada else None
    content["training_set_kwargs"] = nets.meta.get("training_set_kwargs")
    return content, notes


def _part(part: str, network: Any, notes: list[str]) -> dict[str, Any]:
    kind = getattr(network, "kind", None)
    if kind not in CLASSES:
        raise UserError(f"{part}: a {kind} network, which the official code does not have")
    kwargs = dict(network.init_kwargs)
    kwargs.pop("label_kind", None)  # for our commands only: the network takes any label
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    size = kwargs.get("img_resolution")
    if isinstance(size, (list, tuple)):
        raise UserError(f"{part}: img_resolution is {list(size)}, the official code has squares")
    if kind == "stylegan3":
        before = kwargs["w_dim"]
        kwargs, state = widened(kwargs, state)
        if kwargs["w_dim"] != before:
            notes.append(
                f"{part}: w_dim {before} became {kwargs['w_dim']}, the width of the mapping's "
                "hidden layers; the further entries of w are zero"
            )
    _check_known(part, kind, kwargs)
    return {"class": CLASSES[kind], "kwargs": kwargs, "state_dict": state}


def _check_known(part: str, kind: str, kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments that the official class lacks; drop nothing silently."""
    nested: Mapping[str, Any] = {}
    if kind in GENERATOR:
        known = {*GENERATOR_ORDER, *GENERATOR[kind]}
        nested = {"mapping_kwargs": MAPPING[kind]}
    elif kind == "discriminator":
        known, nested = {*DISCRIMINATOR_ORDER, *DISCRIMINATOR}, DISCRIMINATOR_NESTED
    else:
        known = set(AUGMENT)
    unknown = set(kwargs) - known
    for name, names in nested.items():
        unknown |= set(kwargs.get(name) or {}) - set(names)
    if unknown - WITHOUT_EFFECT:
        names = ", ".join(sorted(unknown - WITHOUT_EFFECT))
        raise UserError(f"{part}: made with {names}, which the official class does not have")


def _untrained_discriminator(G: Any) -> nn.Module:
    """Return a discriminator for the images of `G`, with random weights from a fixed seed."""
    names = ("c_dim", "img_resolution", "img_channels", "channel_base", "channel_max")
    kwargs = {name: G.init_kwargs[name] for name in names if name in G.init_kwargs}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return build_network("discriminator", kwargs)
    except ValueError as error:
        raise UserError(
            f"G_ema: the official reader wants a discriminator, which {error}"
        ) from None
