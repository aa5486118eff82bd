"""Slope states in two bits each (0 positive, 1 negative, 2 clamped), of the paths on GPUs.

Four share a byte, with the leftmost in the lowest bits. Rows are zero-padded to words of 16 states:
uint8 `[N, C, H_middle, 4·ceil(W_middle / 16)]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops_cuda.filtered_lrelu.reference import Geometry

STATES_PER_BYTE, STATES_PER_WORD = 4, 16


def states_shape(x_shape, fu, fd, geometry: Geometry) -> list[int]:
    """Return the shape of the uint8 states of `forward_with_states`."""
    width, height = geometry.middle_size(x_shape[3], x_shape[2], fu)
    return [x_shape[0], x_shape[1], height, -(-width // STATES_PER_WORD) * 4]


def packed(states: Tensor) -> Tensor:
    """Pack states `[..., W]` of one byte each into `[..., 4·ceil(W / 16)]` bytes of four."""
    states = torch.nn.functional.pad(states, [0, -states.shape[-1] % STATES_PER_WORD])
    # Shifts rather than a sum over the four, whose terms would take four times the memory.
    first, *others = states.unflatten(-1, (-1, STATES_PER_BYTE)).unbind(-1)
    found = first.clone()
    for place, state in enumerate(others, 1):
        found |= state << 2 * place
    return found


def unpacked(states: Tensor) -> Tensor:
    """Unpack bytes `[..., B]` of four states into `[..., 4·B]` states of one byte each."""
    found = states.new_empty([*states.shape, STATES_PER_BYTE])
    for place in range(STATES_PER_BYTE):
        found[..., place] = states >> 2 * place & 3
    return found.flatten(-2)
