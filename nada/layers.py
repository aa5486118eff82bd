"""Which tensors of a generator may change (NADA Sec. 4.2; FACTS 8.6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sg3.networks import stylegan3

PHASES = ("paper", "coarse", "shape", "texture", "all", "equivariant")


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
    return _units_sg3(G) if _is_sg3(G) else _units_sg2(G)


def _is_sg3(G: nn.Module) -> bool:
    return isinstance(G, stylegan3.Generator)


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


def chosen_units(G: nn.Module, choice: str) -> list[Unit]:
    """The layers that `choice` lets change.

    A phase of `PHASES`, or names separated by commas ("input,L0,L3-L5,torgb"; StyleGAN2:
    "b8.conv0"). "paper" is the published rule: for StyleGAN3 everything but the mapping, the
    affines and the second and fourth layer before ToRGB (L12 and L10 of the usual 14), for
    StyleGAN2 the constant, all convolutions and the first ToRGB. "coarse", "shape" and "texture":
    the first third, the first two thirds, the last two thirds; "all": every layer; "equivariant":
    those whose filters leave a margin below Nyquist, for which `adapt` also keeps weight changes
    free of the highest frequency. Raises ValueError for names that are not layers.
    """
    units = units_of(G)
    third = -(-len(units) // 3)
    body = [unit for unit in units if not unit.to_rgb]
    if choice == "all":
        return units
    if choice == "coarse":
        return units[:third]
    if choice == "shape":
        return units[: 2 * third]
    if choice == "texture":
        return units[third:]
    if choice == "equivariant":
        return [unit for unit in body if not unit.critical]
    if choice == "paper":
        if _is_sg3(G):
            return [u for i, u in enumerate(units) if len(units) - i not in (3, 5)]
        first_rgb = next(unit for unit in units if unit.to_rgb)
        return [unit for unit in units if unit is first_rgb or not unit.to_rgb]
    return _by_name(units, choice)


def _by_name(units: Sequence[Unit], choice: str) -> list[Unit]:
    names = [unit.name for unit in units]
    indices: set[int] = set()
    for part in filter(None, (part.strip() for part in choice.split(","))):
        ends = [part] if part in names else part.split("-")
        if len(ends) > 2 or any(end not in names for end in ends):
            raise ValueError(
                f"layers: got {part!r}, expected {', '.join(PHASES)} or names of "
                f"{', '.join(names)}, like {names[0]},{names[1]}-{names[2]}"
            )
        indices |= set(range(names.index(ends[0]), names.index(ends[-1]) + 1))
    if not indices:
        raise ValueError(f"layers: got {choice!r}, expected {', '.join(PHASES)} or names of layers")
    return [units[i] for i in sorted(indices)]


def most_moved(units: Sequence[Unit], movement: torch.Tensor, k: int) -> list[Unit]:
    """The `k` of `units` whose latents moved most; `movement` `[num_ws]` (NADA Sec. 4.2)."""
    scored = [(float(movement[list(u.ws_rows)].mean()) if u.ws_rows else 0.0) for u in units]
    order = sorted(range(len(units)), key=lambda i: -scored[i])
    return [units[i] for i in sorted(order[:k])]


def free_of_nyquist(change: torch.Tensor) -> torch.Tensor:
    """The part of kernels `[O, I, k, k]` with no response at the Nyquist frequency of an axis.

    A kernel of three taps (a, b, c) answers the alternating signal with b − a − c; removing it
    along both axes leaves what cannot raise the frequencies nearest to aliasing.
    """
    k = change.shape[-1]
    if k == 1:
        return change
    alternating = torch.tensor([(-1.0) ** i for i in range(k)], device=change.device) / k**0.5
    keep = torch.eye(k, device=change.device) - torch.outer(alternating, alternating)
    return torch.einsum("ab,oibc,cd->oiad", keep, change, keep)
