"""CPU path without Numba: resampling as matrix products in plain PyTorch, a few planes at a time.

The products are those of `ops_cuda.banded`. All steps of a few planes use the same workspace, so
the upsampled signal stays in cache. States have the layout of the reference implementation: uint8
`[N, C, H_middle, W_middle]`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.banded import axes
from ops_cuda.filtered_lrelu.reference import CLAMPED, Geometry, states_shape

DEVICE_TYPE = "cpu"
DTYPES = (torch.float32,)
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
    upward = axes(
        fu, flip, gain * up**2, up, 1, (left, top), (width, middle_w), (height, middle_h), x.dtype
    )
    downward = axes(fd, flip, 1, 1, down, (0, 0), (middle_w, out_w), (middle_h, out_h), x.dtype)
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
