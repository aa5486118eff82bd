"""Networks from the tensors of a file in any known layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sg3.checkpoints.layouts.flat import View
from sg3.checkpoints.layouts.found import (
    Found,
    choose,
    describe,
    find_generators,
    other_architecture,
)
from sg3.checkpoints.layouts.official_state import infer_arguments, own_names
from sg3.checkpoints.layouts.rosinality import read_rosinality
from sg3.checkpoints.layouts.stated import Stated
from sg3.checkpoints.networks import Networks, assemble, skeleton
from sg3.checkpoints.official_tensors import single_transform
from sg3.checkpoints.pickle_machine import Refused
from sg3.errors import UserError

AVERAGE_SAMPLES, AVERAGE_BATCH, AVERAGE_SEED = 10_000, 2000, 0
MAX_AVERAGE_BYTES = 2**22
W_AVG = "mapping.w_avg"
#: What state dicts of a kind do not tell, and the published networks have.
ASSUMED = {"stylegan2": {"conv_clamp": 256}, "stylegan3": {}}


def networks_of_tensors(
    flat: Mapping[str, View], stated: Stated, budget: int, only_ema: bool = False
) -> Networks:
    """Return the generators among the tensors of a file.

    Args:
        flat: the tensors by dotted name.
        stated: what the user states about the file.
        budget: maximum size of all tensors in bytes.
        only_ema: leave G out.

    Returns:
        Networks with G_ema, and G if the file has both. `meta["layout"]` says what the file is,
        `meta["notes"]` what the user should know.

    Raises:
        ValueError: no known generator, or arguments that cannot be inferred. The message starts
            with what the file is.
    """
    if (other := other_architecture(flat)) is not None:
        raise Refused(f"{other}, which is not supported")
    found = find_generators(flat)
    what = describe(flat, found)
    if not found:
        raise Refused(what)
    try:
        averaged, trained, notes = choose(found, stated.part)
        networks = Networks(meta={"layout": what})
        networks.G_ema, more = _network("G_ema", averaged, flat, stated, budget)
        if trained is not None and not only_ema:
            networks.G, _ = _network("G", trained, flat, stated, budget)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    networks.meta["notes"] = notes + more + _left(flat, found)
    return networks


def _network(
    part: str, found: Found, flat: Mapping[str, View], stated: Stated, budget: int
) -> tuple[nn.Module, list[str]]:
    # Before any tensor is copied: many views of one storage would multiply the file's size.
    if sum(view.nbytes for view in found.tensors.values()) > budget:
        raise Refused("tensors take far more memory than the file")
    kind = "stylegan2" if found.layout == "rosinality" else found.layout
    if stated.kind not in (None, kind):
        raise UserError(f"`as_` says {stated.kind}, but it holds a {kind}")
    notes: list[str] = []
    if found.layout == "rosinality":
        kwargs, state, notes = read_rosinality(found.tensors)
    else:
        tensors = own_names(found.tensors)
        kwargs = ASSUMED[kind] | infer_arguments(kind, tensors, stated.kwargs)
        notes = [
            f"does not record {k}; assumed {v}, as published networks have (`as_` changes it)"
            for k, v in ASSUMED[kind].items()
            if k not in stated.kwargs
        ]
        state = single_transform({name: view.read() for name, view in tensors.items()})
    _merge(kwargs, stated.kwargs)
    average = _latent_average(found, flat)
    estimated = average is None and W_AVG not in state
    if average is not None:
        state[W_AVG] = average
    elif estimated:
        state[W_AVG] = torch.zeros([kwargs["w_dim"]])
    for name, tensor in skeleton(kind, kwargs).state_dict().items():
        if name.endswith("_filter"):  # follows from the arguments, and not all tools store it
            state.setdefault(name, tensor)
    network = assemble(part, kind, kwargs, state)
    if estimated:
        estimate_average(network)
        notes.append(f"holds no average latent (w_avg); estimated from {AVERAGE_SAMPLES:,} samples")
    return network, notes


def _merge(kwargs: dict[str, Any], stated: Mapping[str, Any]) -> None:
    for name, value in stated.items():
        if isinstance(value, dict):
            value = {**kwargs.get(name, {}), **value}
        kwargs[name] = value


def _latent_average(found: Found, flat: Mapping[str, View]) -> torch.Tensor | None:
    """Return the average latent `[w_dim]` that a file holds beside its generator, if any."""
    if W_AVG in found.tensors:
        return None
    view = found.tensors.get("latent_avg", flat.get("latent_avg"))
    if view is None or view.nbytes > MAX_AVERAGE_BYTES:
        return None
    rows = view.read().float()
    rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim else rows.reshape(1, 1)
    # Encoders repeat it for all layers.
    return rows[0].clone() if bool((rows == rows[0]).all()) else None


def estimate_average(network: Any) -> None:
    """Set `w_avg` to the mean of w over random latents, and labels where there are any."""
    mapping = network.mapping
    random = torch.Generator().manual_seed(AVERAGE_SEED)
    total = torch.zeros([mapping.w_dim], dtype=torch.float64)
    with torch.no_grad():
        for _ in range(0, AVERAGE_SAMPLES, AVERAGE_BATCH):
            z = torch.randn([AVERAGE_BATCH, mapping.z_dim], generator=random)
            c = None
            if mapping.c_dim > 0:
                label = torch.randint(mapping.c_dim, [AVERAGE_BATCH], generator=random)
                c = nn.functional.one_hot(label, mapping.c_dim)
            total += mapping(z, c)[:, 0].double().sum(dim=0)
        mapping.w_avg.copy_(total / AVERAGE_SAMPLES)


def _left(flat: Mapping[str, View], found: list[Found]) -> list[str]:
    """Say which other networks the file holds."""
    first = {name.partition(".")[0].lower() for name in flat}
    words = {name.partition(".")[0] for name in _siblings(flat, found)}
    parts = {"encoder": "encoder" in words, "discriminator": bool({"d", "discriminator"} & first)}
    left = [name for name, present in parts.items() if present]
    return [f"its {' and '.join(left)} is left out"] if left else []


def _siblings(flat: Mapping[str, View], found: list[Found]) -> list[str]:
    """Return the names of tensors beside the generators, without the common prefix."""
    parents = {each.prefix.rpartition(".")[0] for each in found if each.prefix}
    return [
        name.removeprefix(f"{parent}." if parent else "")
        for parent in parents
        for name in flat
        if name.startswith(parent)
    ]
