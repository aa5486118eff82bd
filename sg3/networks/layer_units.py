"""The layers of a generator by name, from coarse to fine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sg3.networks import stylegan3


@dataclass(frozen=True)
class Unit:
    """What is chosen as one: a layer's own tensors, never its affine.

    `ws_rows`: which rows of ws `[N, num_ws, w_dim]` it reads. `to_rgb` marks the layers that turn
    features into colours, `critical` those without a margin between cutoff and Nyquist.
    """

    name: str
    tensors: tuple[str, ...]
    ws_rows: tuple[int, ...]
    to_rgb: bool = False
    critical: bool = False


def units_of(G: nn.Module) -> list[Unit]:
    """The layers of a StyleGAN3 or StyleGAN2 generator from coarse to fine."""
    return _units_sg3(G) if isinstance(G, stylegan3.Generator) else _units_sg2(G)


def _units_sg3(G: nn.Module) -> list[Unit]:
    units = [Unit("input", ("synthesis.input.weight",), (0,))]
    for i, plan in enumerate(G.synthesis.plans):
        tensors = tuple(f"synthesis.{plan.name}.{part}" for part in ("weight", "bias"))
        name = "torgb" if plan.is_torgb else f"L{i}"
        units.append(Unit(name, tensors, (i + 1,), plan.is_torgb, plan.is_critically_sampled))
    return units


def _units_sg2(G: nn.Module) -> list[Unit]:
    names = dict(G.synthesis.named_parameters())
    units, row = [], 0
    for block in sorted({name.split(".")[0] for name in names}, key=lambda name: int(name[1:])):
        if f"{block}.const" in names:
            units.append(Unit(f"{block}.const", (f"synthesis.{block}.const",), ()))
        for layer in ("conv0", "conv1", "torgb"):
            own = [
                name
                for name in names
                if re.fullmatch(rf"{block}\.{layer}\.(weight|bias|noise_strength)", name)
            ]
            if own:
                # A block's ToRGB reads the row that the next block's first layer reads.
                tensors = tuple(f"synthesis.{name}" for name in own)
                units.append(Unit(f"{block}.{layer}", tensors, (row,), layer == "torgb"))
                row += layer != "torgb"
    return units


def layer_names(G: nn.Module) -> list[str]:
    """Of a generator, from coarse to fine: "input", "L0" … "torgb"; StyleGAN2 "b8.conv0" …"""
    return [unit.name for unit in units_of(G)]


def tensors_by_layer(G: nn.Module) -> dict[str, list[str]]:
    """All of a layer's tensors in the state dict, its affine and buffers too; "mapping" first."""
    names = list(G.state_dict())
    found = {"mapping": [name for name in names if name.startswith("mapping.")]}
    for unit in units_of(G):
        # The constant of a StyleGAN2 stands in a block among layers; the rest are modules.
        module = unit.tensors[0].rpartition(".")[0] + "."
        whole = [name for name in names if name.startswith(module)] if unit.ws_rows else ()
        found[unit.name] = list(whole or unit.tensors)
    return found


def select_layers(names: Sequence[str], text: str, others: Sequence[str] = ()) -> list[int]:
    """Positions in `names` of what `text` lists: names and ranges, like "input,L0,L3-L5".

    `others` are further words that the caller knows, for the message. Raises ValueError for a
    part that is no name, or where `text` lists nothing.
    """
    expected = f"{', '.join(others)} or names of" if others else "names of"
    expected += f" {', '.join(names)}, like {names[0]},{names[1]}-{names[2]}"
    indices: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = [part] if part in names else part.split("-")
        found = [names.index(end) for end in ends if end in names]
        if len(ends) > 2 or len(found) < len(ends) or found[0] > found[-1]:
            raise ValueError(f"layers: got {part!r}, expected {expected}")
        indices |= set(range(found[0], found[-1] + 1))
    if not indices:
        raise ValueError(f"layers: got {text!r}, expected {expected}")
    return sorted(indices)
