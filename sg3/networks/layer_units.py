"""Names of the layers of a generator, and their tensors and ws rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sg3.errors import UserError
from sg3.networks import stylegan3


@dataclass(frozen=True)
class Unit:
    """A layer that can be selected by name.

    Attributes:
        name: "input", "L0" … "torgb"; StyleGAN2: "b4.const", "b4.conv1", "b4.torgb" …
        tensors: names of its own tensors, without the affine layer.
        ws_rows: rows of ws `[N, num_ws, w_dim]` that it reads.
        to_rgb: whether it maps features to colours.
        critical: whether it is critically sampled.
    """

    name: str
    tensors: tuple[str, ...]
    ws_rows: tuple[int, ...]
    to_rgb: bool = False
    critical: bool = False


def units_of(G: nn.Module) -> list[Unit]:
    """Return the layers of a StyleGAN3 or StyleGAN2 generator from coarse to fine."""
    return _units_sg3(G) if isinstance(G, stylegan3.Generator) else _units_sg2(G)


def _units_sg3(G: stylegan3.Generator) -> list[Unit]:
    units = [Unit("input", ("synthesis.input.weight",), (0,))]
    for i, plan in enumerate(G.synthesis.plans):
        tensors = tuple(f"synthesis.{plan.name}.{part}" for part in ("weight", "bias"))
        name = "torgb" if plan.is_torgb else f"L{i}"
        units.append(Unit(name, tensors, (i + 1,), plan.is_torgb, plan.is_critically_sampled))
    return units


def _units_sg2(G: nn.Module) -> list[Unit]:
    names = dict(G.get_submodule("synthesis").named_parameters())
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
                # A block's ToRGB reads the same row as the first layer of the next block.
                tensors = tuple(f"synthesis.{name}" for name in own)
                units.append(Unit(f"{block}.{layer}", tensors, (row,), layer == "torgb"))
                row += layer != "torgb"
    return units


def layer_names(G: nn.Module) -> list[str]:
    """Return layer names from coarse to fine: "input", "L0" … "torgb"; StyleGAN2: "b8.conv0" …"""
    return [unit.name for unit in units_of(G)]


def tensors_by_layer(G: nn.Module) -> dict[str, list[str]]:
    """Return all state dict names by layer, including affine layers and buffers.

    The first key is "mapping".
    """
    names = list(G.state_dict())
    found = {"mapping": [name for name in names if name.startswith("mapping.")]}
    for unit in units_of(G):
        # All layers are modules except the constant of a StyleGAN2, a tensor of its block.
        module = unit.tensors[0].rpartition(".")[0] + "."
        whole = [name for name in names if name.startswith(module)] if unit.ws_rows else ()
        found[unit.name] = list(whole or unit.tensors)
    return found


def select_layers(names: Sequence[str], text: str, others: Sequence[str] = ()) -> list[int]:
    """Parse a list of layer names and ranges, like "input,L0,L3-L5".

    Args:
        names: layer names from coarse to fine.
        text: comma-separated names and ranges.
        others: further words that the caller accepts, for the error message.

    Returns:
        Sorted indices into `names`.

    Raises:
        ValueError: an unknown name, a reversed range, or no name at all.
    """
    known = f"layers are {_listed(names)}" + (f"; or {', '.join(others)}" if others else "")
    indices: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = [part] if part in names else part.split("-")
        found = [names.index(end) for end in ends if end in names]
        if len(ends) > 2 or len(found) < len(ends):
            unknown = next((end for end in ends if end not in names), part)
            raise UserError(f"layers: no layer {unknown!r}; {known}")
        if found[0] > found[-1]:
            raise UserError(f"layers: got {part!r}, expected the coarser layer first; {known}")
        indices |= set(range(found[0], found[-1] + 1))
    if not indices:
        raise UserError(f"layers: got {text!r}, expected names; {known}")
    return sorted(indices)


def _listed(names: Sequence[str]) -> str:
    """Join names, with three or more in a row such as L0, L1, L2 as "L0 … L2"."""
    numbered = [name for name in names if re.fullmatch(r"L\d+", name)]
    if len(numbered) < 3:
        return ", ".join(names)
    row = f"{numbered[0]} … {numbered[-1]}"
    shown = [row if name == numbered[0] else name for name in names]
    return ", ".join(name for name in shown if name not in numbered)
