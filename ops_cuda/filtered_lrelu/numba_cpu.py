"""Fused CPU path: processes groups of planes row by row, so the upsampled signal stays in cache."""

from __future__ import annotations

import numpy as np
import torch

from ops_cuda import recycled
from ops_cuda.filtered_lrelu import numba_plan as plan
from ops_cuda.filtered_lrelu.numba_kernel import run_groups
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.fir import filter_size
from ops_cuda.numba_support import missing
from ops_cuda.planes import in_parallel

__all__ = ["forward", "forward_with_states", "linear", "missing", "states_shape"]

DEVICE_TYPE = "cpu"
DTYPES = (torch.float32,)
APPLY_LRELU, STORE_STATES, USE_STATES = 0, 1, 2


def forward(x, fu, fd, b, geometry: Geometry, scale=None) -> torch.Tensor:
    """Compute `[N, C, H, W]` → `[N, C, H', W']` without storing states."""
    return _run(x, fu, fd, b, geometry, APPLY_LRELU, None, scale)[0]


def forward_with_states(x, fu, fd, b, geometry: Geometry, scale=None):
    """Compute the result and the slope states, four to a byte; see `states_shape`."""
    return _run(x, fu, fd, b, geometry, STORE_STATES, None, scale)


def linear(x, fu, fd, states, geometry: Geometry) -> torch.Tensor:
    """Upsample, multiply by the stored slopes, downsample."""
    return _run(x, fu, fd, None, geometry, USE_STATES, states)[0]


def states_shape(x_shape, fu, fd, geometry: Geometry) -> tuple[int, ...]:
    """Return the shape of the states, `[groups, H_middle, L, planes, columns / 4]`.

    A row holds one phase of all planes of a group. Byte j of a row of C columns holds the states
    of columns j, j + C/4, j + C/2 and j + 3C/4.
    """
    n, c, height, width = x_shape
    out_w, _ = geometry.output_size(width, height, fu, fd)
    # Forward and backward pass must agree on the layout: take the wider of the two.
    there = plan.columns_of(geometry, width, filter_size(fu)[0])
    transposed = geometry.transposed(x_shape, fu, fd)
    back = plan.columns_of(transposed, out_w, filter_size(fd)[0])
    group, stride = plan.row_layout(max(there, back))
    _, middle_h = geometry.middle_size(width, height, fu)
    return -(-n * c // group), middle_h, plan.phases_of(geometry), group, stride // 4


def _run(x, fu, fd, b, geometry: Geometry, mode: int, states, scale=None):
    n, c, height, width = x.shape
    _, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    shape = states_shape(x.shape, fu, fd, geometry) if states is None else states.shape
    num_groups, group, stride = shape[0], shape[3], 4 * shape[4]
    if mode != USE_STATES:
        states = recycled.empty(shape if mode == STORE_STATES else [1] * 5, torch.uint8)
    y = recycled.empty([n, c, out_h, out_w], torch.float32)
    affine = np.zeros([n, c, 2], np.float32)
    affine[:, :, 0] = 1 if scale is None else scale.detach().numpy()
    affine[:, :, 1] = 0 if b is None else b.detach().numpy()
    up, down = plan.upsampling(fu, geometry), plan.downsampling(fd, geometry)
    clamp = np.inf if geometry.clamp is None else geometry.clamp
    lead, first_input = plan.first_position(geometry)
    grid = (geometry.up, geometry.down, geometry.padding[2], lead, first_input)
    before = (
        x.detach().contiguous().numpy().reshape(n * c, height, width),
        affine.reshape(n * c, 2),
        y.numpy().reshape(n * c, out_h, out_w),
        states.flatten(3).numpy(),
        up,
        down,
    )
    after = (
        (*grid, group, stride, middle_h, *(geometry.offset or (0, 0)), mode),
        (np.float32(geometry.gain), np.float32(geometry.slope), np.float32(clamp)),
    )

    def run(first: int, last: int) -> None:
        work = plan.workspace(up, down, group * stride, geometry)
        run_groups(first, last, *before, work, *after)

    if x.numel():
        in_parallel(run, num_groups, (), num_groups)
    return y, states
