"""CPU path without Numba: resampling as matrix products in plain PyTorch, a few planes at a time.

Resampling an axis is a product with a banded matrix. Cut into blocks of output columns, each
product is small and dense, and the zeros of the upsampled grid are never stored. All steps of a
few planes use the same workspace, so the upsampled signal stays in cache. States have the layout
of the reference implementation: uint8 `[N, C, H_middle, W_middle]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.filtered_lrelu.reference import CLAMPED, Geometry, states_shape
from ops_cuda.planes import separable_terms

DEVICE_TYPE = "cpu"
DTYPES = (torch.float32,)
#: Singular values of a 2-D filter below this fraction of the largest are dropped; the radial
#: filters of configuration R then need three terms.
SMALLEST_TERM = {torch.float32: 5e-6, torch.float64: 1e-15}
#: Output columns per product. Larger blocks multiply more zeros, smaller ones cost more calls.
BLOCK = 64
#: Elements of the upsampled grid that are processed together.
CHUNK = 2**20


def missing() -> str:
    """Return "": plain PyTorch is always available."""
    return ""


def forward(x, fu, fd, b, geometry: Geometry, scale=None) -> Tensor:
    """Compute `[N, C, H, W]` → `[N, C, H', W']` without storing states.

    `scale` `[N, C]`, if given, multiplies `x` before the bias.
    """

    def activate(fine: Tensor, planes: slice) -> None:
        F.leaky_relu_(fine, geometry.slope).mul_(geometry.gain)
        if geometry.clamp is not None:
            fine.clamp_(-geometry.clamp, geometry.clamp)

    return _run(x, fu, fd, b, scale, geometry, activate)


def forward_with_states(x, fu, fd, b, geometry: Geometry, scale=None) -> tuple[Tensor, Tensor]:
    """Compute the result and the slope states."""
    states = torch.empty(states_shape(x.shape, fu, fd, geometry), dtype=torch.uint8)
    planes_of_states = states.flatten(0, 1)

    def activate(fine: Tensor, planes: slice) -> None:
        kept = planes_of_states[planes]
        torch.lt(fine, 0, out=kept.view(torch.bool))
        F.leaky_relu_(fine, geometry.slope).mul_(geometry.gain)
        low, high = fine.aminmax()
        # The search for clamped elements costs more than everything else; there are rarely any.
        if geometry.clamp is not None and not -geometry.clamp <= low <= high <= geometry.clamp:
            kept.masked_fill_(fine.abs() > geometry.clamp, CLAMPED)
            fine.clamp_(-geometry.clamp, geometry.clamp)

    return _run(x, fu, fd, b, scale, geometry, activate), states


def linear(x, fu, fd, states: Tensor, geometry: Geometry) -> Tensor:
    """Upsample, multiply by the slope of each stored state, downsample."""
    assert geometry.offset is not None, "a linear call has an offset"
    offset_x, offset_y = geometry.offset
    planes_of_states = states.flatten(0, 1)
    height, width = states.shape[2:]
    table = torch.tensor([1.0, geometry.slope, 0.0], dtype=x.dtype)

    def activate(fine: Tensor, planes: slice) -> None:
        known = fine[:, max(0, -offset_y) :, max(0, -offset_x) :]
        known = known[:, : max(0, height - max(0, offset_y)), : max(0, width - max(0, offset_x))]
        stored = planes_of_states[planes, max(0, offset_y) :, max(0, offset_x) :]
        stored = stored[:, : known.shape[1], : known.shape[2]]
        known.mul_(table.index_select(0, stored.flatten().int()).view(known.shape))

    return _run(x, fu, fd, None, None, geometry, activate, geometry.gain)


@dataclass(frozen=True)
class _Axis:
    """Resampling of one axis by one term of a filter: blocks of a banded matrix `[in, out]`.

    Output columns `columns` are input columns `rows` times `matrix`.
    """

    size: int
    blocks: tuple[tuple[slice, slice, Tensor], ...]

    def along_rows(self, x: Tensor, out: Tensor, add: bool) -> None:
        """`[P, H, in]` → `[P, H, out]`."""
        x, out = x.flatten(0, 1), out.flatten(0, 1)
        for rows, columns, matrix in self.blocks:
            part = out[:, columns]
            torch.addmm(part, x[:, rows], matrix, beta=int(add), out=part)

    def down_columns(self, x: Tensor, out: Tensor, add: bool) -> None:
        """`[P, in, W]` → `[P, out, W]`."""
        for rows, columns, matrix in self.blocks:
            part = out[:, columns]
            factor = matrix.t().expand(len(x), -1, -1)
            torch.baddbmm(part, factor, x[:, rows], beta=int(add), out=part)


@lru_cache(maxsize=128)
def _axis(
    taps: bytes, up: int, down: int, pad: int, sizes: tuple[int, int], dtype: torch.dtype
) -> _Axis:
    """Build the banded matrix: output o reads input i with tap `k = i·up + pad − o·down`."""
    f = np.frombuffer(taps, np.float64)
    size_in, size_out = sizes
    blocks = []
    for start in range(0, size_out, BLOCK):
        stop = min(start + BLOCK, size_out)
        first = min(max(0, -((pad - start * down) // up)), size_in)
        last = max(first, min(size_in, ((stop - 1) * down - pad + len(f) - 1) // up + 1))
        k = np.arange(first, last)[:, None] * up + pad - np.arange(start, stop) * down
        inside = (k >= 0) & (k < len(f))
        matrix = torch.from_numpy(np.where(inside, f[np.where(inside, k, 0)], 0)).to(dtype)
        blocks.append((slice(first, last), slice(start, stop), matrix))
    return _Axis(size_out, tuple(blocks))


def _axes(f, flip: bool, gain: float, up: int, down: int, pads, sizes_x, sizes_y, dtype):
    """Return for each separable term of the filter its axes (x, y)."""
    return [
        (
            _axis(x.tobytes(), up, down, pads[0], sizes_x, dtype),
            _axis(y.tobytes(), up, down, pads[1], sizes_y, dtype),
        )
        for x, y in zip(*separable_terms(f, flip, gain, SMALLEST_TERM[dtype]), strict=True)
    ]


def _run(
    x,
    fu,
    fd,
    b,
    scale,
    geometry: Geometry,
    activate: Callable[[Tensor, slice], None],
    gain: float = 1,
) -> Tensor:
    """Upsample with `gain`, call `activate` in place on chunks of planes, downsample."""
    n, c, height, width = x.shape
    middle_w, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    y = x.new_empty([n, c, out_h, out_w])
    if y.numel() == 0:
        return y
    left, _, top, _ = geometry.padding
    flip, up, down = geometry.flip_filter, geometry.up, geometry.down
    upward = _axes(
        fu, flip, gain * up**2, up, 1, (left, top), (width, middle_w), (height, middle_h), x.dtype
    )
    downward = _axes(fd, flip, 1, 1, down, (0, 0), (middle_w, out_w), (middle_h, out_h), x.dtype)
    sources, results = x.detach().contiguous().flatten(0, 1), y.flatten(0, 1)
    bias = None if b is None else b.detach().to(x.dtype).repeat(n)[:, None, None]
    factors = None if scale is None else scale.detach().flatten()[:, None, None]
    chunk = max(1, min(n * c, CHUNK // (middle_w * middle_h)))
    rows = x.new_empty([chunk, height, middle_w])
    fine = x.new_empty([chunk, middle_h, middle_w])
    columns = x.new_empty([chunk, out_h, middle_w])
    for start in range(0, n * c, chunk):
        planes = slice(start, min(start + chunk, n * c))
        p = planes.stop - planes.start
        source = sources[planes] if factors is None else sources[planes] * factors[planes]
        source = source if bias is None else source + bias[planes]
        for term, (along_x, along_y) in enumerate(upward):
            along_x.along_rows(source, rows[:p], False)
            along_y.down_columns(rows[:p], fine[:p], term > 0)
        activate(fine[:p], planes)
        for term, (along_x, along_y) in enumerate(downward):
            along_y.down_columns(fine[:p], columns[:p], False)
            along_x.along_rows(columns[:p], results[planes], term > 0)
    return y
