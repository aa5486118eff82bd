"""Selection of the layers to train (NADA Sec. 4.2; REFERENCE.md §8.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum
from torch import nn

from sg3.networks import stylegan3
from sg3.networks.layer_units import Unit, select_layers, units_of

PHASES = ("paper", "coarse", "shape", "texture", "all", "equivariant")


def chosen_units(G: nn.Module, choice: str) -> list[Unit]:
    """Return the layers that `choice` selects.

    `choice` is a name in `PHASES`, or layer names separated by commas ("input,L0,L3-L5,torgb";
    StyleGAN2: "b8.conv0"):

    - "paper": the published rule. StyleGAN3: everything but the mapping, the affines and the
      second and fourth layer before ToRGB (L12 and L10 of the usual 14); StyleGAN2: the constant,
      all convolutions and the first ToRGB.
    - "coarse", "shape", "texture": the first third, the first two thirds, the last two thirds.
    - "all": every layer.
    - "equivariant": the layers whose filters leave a margin below Nyquist. `adapt` also keeps
      their weight changes free of the highest frequency.

    Raises ValueError for names that are not layers.
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
        if isinstance(G, stylegan3.Generator):
            # Counted from the end, where ToRGB is 1, to fit networks of any depth.
            return [u for i, u in enumerate(units) if len(units) - i not in (3, 5)]
        first_rgb = next(unit for unit in units if unit.to_rgb)
        return [unit for unit in units if unit is first_rgb or not unit.to_rgb]
    return [units[i] for i in select_layers([unit.name for unit in units], choice, PHASES)]


def most_moved(units: Sequence[Unit], movement: torch.Tensor, k: int) -> list[Unit]:
    """Return the `k` units whose latents moved most; `movement` `[num_ws]` (NADA Sec. 4.2)."""
    scores = [(float(movement[list(u.ws_rows)].mean()) if u.ws_rows else 0.0) for u in units]
    order = sorted(range(len(units)), key=lambda i: -scores[i])
    return [units[i] for i in sorted(order[:k])]


def free_of_nyquist(change: torch.Tensor) -> torch.Tensor:
    """Project kernels `[O, I, k, k]` to those without response at the Nyquist frequency of an axis.

    Three taps (a, b, c) respond to the alternating signal with b − a − c. Removing that component
    along both axes leaves a change that cannot amplify the frequencies nearest to aliasing.
    """
    k = change.shape[-1]
    # A single tap responds to all frequencies alike.
    if k == 1:
        return change
    alternating = torch.tensor([(-1.0) ** i for i in range(k)], device=change.device) / k**0.5
    keep = torch.eye(k, device=change.device) - torch.outer(alternating, alternating)
    return einsum(keep, change, keep, "y i, co ci i j, j x -> co ci y x")
