"""The fused CPU path: one plane at a time, row by row, so the upsampled signal stays in cache.

Signals are held split into phases, so that every inner loop runs over contiguous memory:
with `L = lcm(up, down)` the fine grid has L phases, the input `E = L/up` and the output
`R = L/down` of them; all of a phase's samples share the same filter taps. A filter with two axes
is a sum of separable ones: the radial filters of configuration R need three.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from ops_cuda.filtered_lrelu.definition import Geometry
from ops_cuda.filtered_lrelu.numba_kernel import numba, run_groups
from ops_cuda.fir import filter_size

DEVICE_TYPE = "cpu"
DTYPES = (torch.float32,)
APPLY_LRELU, STORE_STATES, USE_STATES = 0, 1, 2
#: Planes lie side by side in rows of about this many floats: long loops that stay in L1.
ROW_LENGTH = 640
#: Singular values of a 2-D filter below this share of the largest are left out.
SMALLEST_TERM = 5e-6


def missing() -> str:
    """Why this path cannot be had here, or nothing."""
    return "" if numba is not None else "Numba is not installed"


def forward(x, fu, fd, b, geometry: Geometry) -> torch.Tensor:
    """`[N, C, H, W]` → `[N, C, H', W']` without keeping anything for a gradient."""
    return _run(x, fu, fd, b, geometry, APPLY_LRELU, None)[0]


def forward_with_states(x, fu, fd, b, geometry: Geometry):
    """Result and slope states, four to a byte: see `states_shape`."""
    return _run(x, fu, fd, b, geometry, STORE_STATES, None)


def linear(x, fu, fd, states, geometry: Geometry) -> torch.Tensor:
    """Upsample, multiply by stored slopes, downsample."""
    return _run(x, fu, fd, None, geometry, USE_STATES, states)[0]


def _terms(f: torch.Tensor | None, flip_filter: bool, gain: float = 1) -> tuple[np.ndarray, ...]:
    """Correlation taps of both axes, `[terms, taps_x]` and `[terms, taps_y]`, each times `gain`."""
    if f is None:
        f = torch.ones(1)
    f = f.detach().numpy()
    return _decomposed(f.astype(np.float32).tobytes(), f.shape, flip_filter, gain)


@lru_cache(maxsize=256)
def _decomposed(taps: bytes, shape: tuple[int, ...], flip_filter: bool, gain: float):
    f = np.frombuffer(taps, np.float32).reshape(shape)
    if f.ndim == 1:
        x = y = f[None]
    else:
        u, sigma, v = np.linalg.svd(f.astype(np.float64), full_matrices=False)
        keep = max(int((sigma > SMALLEST_TERM * sigma[0]).sum()), 1)
        root = np.sqrt(sigma[:keep, None])
        x, y = v[:keep] * root, u[:, :keep].T * root
    step = 1 if flip_filter else -1
    return tuple(np.ascontiguousarray(t[:, ::step] * gain, dtype=np.float32) for t in (x, y))


def states_shape(x_shape, fu, fd, geometry: Geometry) -> tuple[int, ...]:
    """`[groups, H_middle, L, planes, columns / 4]`: phase rows of a group, four quarters to a byte.

    Byte j of a row of C columns holds the states of columns j, j + C/4, j + C/2, j + 3C/4.
    """
    n, c, height, width = x_shape
    out_w, _ = geometry.output_size(width, height, fu, fd)
    there = _columns(geometry, width, fu, fd)
    back = _columns(geometry.transposed(x_shape, fu, fd), out_w, fd, fu)
    group, stride = _row_layout(max(there, back))
    phases = math.lcm(geometry.up, geometry.down)
    _, middle_h = geometry.middle_size(width, height, fu)
    return (-(-n * c // group), middle_h, phases, group, stride // 4)


def _run(x, fu, fd, b, geometry: Geometry, mode: int, states):
    n, c, height, width = x.shape
    _, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    phases = math.lcm(geometry.up, geometry.down)
    shape = states_shape(x.shape, fu, fd, geometry) if states is None else states.shape
    num_groups, group, stride = shape[0], shape[3], 4 * shape[4]
    if mode != USE_STATES:
        states = torch.empty(shape if mode == STORE_STATES else [1] * 5, dtype=torch.uint8)
    y = torch.empty([n, c, out_h, out_w], dtype=torch.float32)
    bias = np.zeros(c, np.float32) if b is None else b.detach().float().numpy()
    clamp = np.float32(np.inf if geometry.clamp is None else geometry.clamp)
    arguments = (
        x.detach().contiguous().numpy().reshape(n * c, height, width),
        bias,
        _terms(fu, geometry.flip_filter, geometry.up),
        _terms(fd, geometry.flip_filter),
        y.numpy().reshape(n * c, out_h, out_w),
        states.flatten(3).numpy(),
        (geometry.up, geometry.down, geometry.padding[0], geometry.padding[2], phases),
        (group, stride, middle_h, *(geometry.offset or (0, 0)), mode),
        (np.float32(geometry.gain), np.float32(geometry.slope), clamp),
    )
    if x.numel():
        _for_groups(num_groups, arguments)
    return y, states


def _columns(geometry: Geometry, width: int, fu, fd) -> int:
    """Columns per plane that hold every phase of its input, fine and output rows with margins."""
    phases = math.lcm(geometry.up, geometry.down)
    middle_w, _ = geometry.middle_size(width, 1, fu)
    lead = -geometry.padding[0] % phases
    taps = filter_size(fu)[0] + filter_size(fd)[0]
    return -(-(lead + middle_w) // phases) + taps // phases + 6


def _row_layout(columns: int) -> tuple[int, int]:
    """Planes per row and columns per plane; their product is a multiple of 32."""
    stride = -(-columns // 8) * 8
    group = ROW_LENGTH // stride // 4 * 4
    return (group, stride) if group else (1, -(-columns // 32) * 32)


def _for_groups(num_groups: int, arguments: tuple) -> None:
    """Run the kernel over all groups of planes, on as many threads as torch uses."""
    num_threads = min(torch.get_num_threads(), num_groups)
    if num_threads <= 1:
        run_groups(0, num_groups, *arguments)
        return
    bounds = [num_groups * i // num_threads for i in range(num_threads + 1)]
    jobs = [
        _pool(num_threads).submit(run_groups, first, last, *arguments)
        for first, last in list(pairwise(bounds))[1:]
    ]
    run_groups(bounds[0], bounds[1], *arguments)
    for job in jobs:
        job.result()


@lru_cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads - 1, thread_name_prefix="ops_cuda")
