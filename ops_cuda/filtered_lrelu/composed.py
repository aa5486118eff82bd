"""Fused composition in plain PyTorch, for every device: CPUs without Numba, GPUs without Triton.

Resampling is a product with the banded matrices of `ops_cuda.banded`. A few planes at a time, or a
few rows of one plane, go through all steps in the same workspace, so that the upsampled signal is
never stored as a whole. The backward pass recomputes it and needs only the states of
`packed_states`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.banded import axes
from ops_cuda.filtered_lrelu.packed_states import (
    STATES_PER_BYTE,
    packed,
    states_shape,
    unpacked,
)
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.fir import filter_size

__all__ = ["forward", "forward_with_states", "linear", "missing", "states_shape"]

DEVICE_TYPE = None  # any
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Elements of the upsampled grid that are processed together: what a CPU's cache holds, and on
#: other devices at least this fraction of input and result.
CHUNK = 2**20
PART = 1 / 12
#: Output columns per product: smaller blocks multiply fewer zeros, larger ones need fewer calls.
BLOCK = 48
#: Fewest output rows per tile, in units of the taps that neighbouring tiles both compute.
ROWS_PER_TAP = 4

#: Called with fine rows `[planes, rows, W_middle]`, their planes, and the first row.
Activation = Callable[[Tensor, slice, int], None]


def missing() -> str:
    """Return "": plain PyTorch is always available."""
    return ""


def forward(x, fu, fd, b, geometry: Geometry, scale=None) -> Tensor:
    """Compute `[N, C, H, W]` → `[N, C, H', W']` without storing states.

    `scale` `[N, C]`, if given, multiplies `x` before the bias.
    """

    def activate(fine: Tensor, planes: slice, top: int) -> None:
        _leaky_relu(fine, geometry)
        if geometry.clamp is not None:
            fine.clamp_(-geometry.clamp, geometry.clamp)

    return _run(x, fu, fd, b, scale, geometry, activate)


def forward_with_states(x, fu, fd, b, geometry: Geometry, scale=None) -> tuple[Tensor, Tensor]:
    """Compute the result and the packed slope states."""
    states = x.new_empty(states_shape(x.shape, fu, fd, geometry), dtype=torch.uint8)
    planes_of_states = states.flatten(0, 1)

    def activate(fine: Tensor, planes: slice, top: int) -> None:
        codes = (fine < 0).view(torch.uint8)
        _leaky_relu(fine, geometry)
        if geometry.clamp is not None:
            for over in (fine > geometry.clamp, fine < -geometry.clamp):
                codes.masked_fill_(over, 2)
            fine.clamp_(-geometry.clamp, geometry.clamp)
        planes_of_states[planes, top : top + fine.shape[1]] = packed(codes)

    return _run(x, fu, fd, b, scale, geometry, activate), states


def _leaky_relu(fine: Tensor, geometry: Geometry) -> None:
    F.leaky_relu_(fine, geometry.slope).mul_(geometry.gain)


def linear(x, fu, fd, states: Tensor, geometry: Geometry) -> Tensor:
    """Upsample, multiply by the slope of each stored state, downsample."""
    assert geometry.offset is not None, "a linear call has an offset"
    offset_x, offset_y = geometry.offset
    planes_of_states, height = states.flatten(0, 1), states.shape[2]
    first = max(0, offset_x)  # column of the states
    one, slope = (x.new_full([], value) for value in (1, geometry.slope))

    def activate(fine: Tensor, planes: slice, top: int) -> None:
        row = top + offset_y
        known = fine[:, max(0, -row) : max(0, height - row), max(0, -offset_x) :]
        row = max(0, row)
        whole = slice(first // STATES_PER_BYTE, -(-(first + known.shape[2]) // STATES_PER_BYTE))
        codes = unpacked(planes_of_states[planes, row : row + known.shape[1], whole])
        codes = codes[:, :, first % STATES_PER_BYTE :][:, :, : known.shape[2]]
        # States end before the grid does: what is beyond is multiplied by zeros only.
        known = known[:, :, : codes.shape[2]]
        known.mul_(torch.where(codes == 1, slope, one))
        known.masked_fill_(codes == 2, 0)

    return _run(x, fu, fd, None, None, geometry, activate, geometry.gain)


def _run(
    x, fu, fd, b, scale, geometry: Geometry, activate: Activation, gain: float = 1
) -> Tensor:  # fmt: skip
    """Upsample with `gain`, call `activate` in place on parts of the fine grid, downsample."""
    n, c, height, width = x.shape
    middle_w, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    y = x.new_empty([n, c, out_h, out_w])
    if y.numel() == 0:
        return y
    left, _, top, _ = geometry.padding
    flip, up, down = geometry.flip_filter, geometry.up, geometry.down
    (_, fu_h), (_, fd_h) = filter_size(fu), filter_size(fd)
    sources, results = x.detach().contiguous().flatten(0, 1), y.flatten(0, 1)
    bias = None if b is None else b.detach().to(x.dtype).repeat(n)[:, None, None]
    factors = None if scale is None else scale.detach().to(x.dtype).flatten()[:, None, None]
    kind = (x.dtype, x.device, BLOCK)
    chunk, tile = _parts(x, y, middle_w, middle_h, fd_h, down)
    for first in range(0, out_h, tile):
        out = slice(first, min(first + tile, out_h))
        # The last tile has all rows that are left, so that all states are written.
        last = middle_h if out.stop == out_h else (out.stop - 1) * down + fd_h
        middle = slice(first * down, last)
        # Input rows of the tile: row i reaches fine rows i·up + top − fu_h + 1 … i·up + top.
        start = min(max(0, -((top - middle.start) // up)), height)
        stop = max(start, min(height, (middle.stop - 1 - top + fu_h - 1) // up + 1))
        sizes = (stop - start, middle.stop - middle.start, out.stop - out.start)
        pads = (left, top + start * up - middle.start)
        upward = axes(fu, flip, gain * up**2, up, 1, pads, (width, middle_w), sizes[:2], *kind)
        downward = axes(fd, flip, 1, 1, down, (0, 0), (middle_w, out_w), sizes[1:], *kind)
        work = [x.new_empty([chunk, rows, middle_w]) for rows in sizes]
        for planes in _slices(n * c, chunk):
            rows, fine, columns = (part[: planes.stop - planes.start] for part in work)
            source = sources[planes, start:stop]
            source = source if factors is None else source * factors[planes]
            source = source if bias is None else source + bias[planes]
            for term, (along_x, along_y) in enumerate(upward):
                along_x.along_rows(source, rows, False)
                along_y.down_columns(rows, fine, term > 0)
            activate(fine, planes, middle.start)
            for term, (along_x, along_y) in enumerate(downward):
                along_y.down_columns(fine, columns, False)
                along_x.along_rows(columns, results[planes, out], term > 0)
    return y


def _parts(
    x: Tensor, y: Tensor, middle_w: int, middle_h: int, fd_h: int, down: int
) -> tuple[int, int]:
    """Return how many planes, and how many of their output rows, are processed together."""
    limit = CHUNK
    if x.device.type != "cpu":
        limit = max(limit, int((x.numel() + y.numel()) * PART))
    num_planes = x.shape[0] * x.shape[1]
    if middle_w * middle_h <= limit:
        return min(num_planes, limit // (middle_w * middle_h)), y.shape[2]
    rows = max(limit // middle_w, ROWS_PER_TAP * fd_h)
    return 1, max(1, (rows - fd_h) // down)


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
