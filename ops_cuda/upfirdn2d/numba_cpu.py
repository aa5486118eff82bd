"""CPU path for contiguous images: output rows stream through the cache, without zero insertion.

An output row is a FIR filter down the columns of a few input rows, then a FIR filter along the
row. Rows are split into phases (polyphase filtering), so that every loop runs over contiguous
memory: with `L = lcm(up, down)` an input row has `E = L/up` phases, an output row `R = L/down`.
Output rows are independent and distributed over threads.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from ops_cuda import recycled
from ops_cuda.numba_support import missing
from ops_cuda.planes import in_parallel, separable_terms
from ops_cuda.upfirdn2d import reference
from ops_cuda.upfirdn2d.numba_kernel import run_rows
from ops_cuda.upfirdn2d.reference import Resampling

__all__ = ["missing", "run"]

DEVICE_TYPE = "cpu"
DTYPES = (torch.float32,)
#: Filters with more separable terms use the reference path.
MAX_TERMS = 3
#: From this number of channels on, depthwise convolutions of channels-last images reach the memory
#: bandwidth.
MANY_CHANNELS = 8
#: More than `MANY_ROWS` rows shorter than `NARROW` also use depthwise convolutions.
NARROW, MANY_ROWS = 32, 2000
#: Elements of the result per thread: about a millisecond of work.
ELEMENTS_PER_THREAD = 2**20


def run(x: torch.Tensor, f: torch.Tensor | None, spec: Resampling) -> torch.Tensor:
    """Return the values of the reference path: `[N, C, H, W]` float32 → `[N, C, H', W']`."""
    n, c, height, width = x.shape
    out_w, out_h = spec.output_size(width, height, f)
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    short_rows = out_w < NARROW and n * c * out_h > MANY_ROWS
    if x.numel() == 0 or short_rows or (channels_last and c >= MANY_CHANNELS):
        return reference.run(x, f, spec)
    x_taps, y_taps = separable_terms(f, spec.flip_filter, spec.gain)
    if len(x_taps) > MAX_TERMS:
        return reference.run(x, f, spec)
    y = recycled.empty([n, c, out_h, out_w], torch.float32)
    (up_x, up_y), (down_x, down_y) = spec.up, spec.down
    left, _, top, _ = spec.padding
    # Plain reshapes: einops costs 4 µs each, where small layers take 200 µs per call.
    arguments = (
        x.detach().contiguous().numpy().reshape(n * c, height, width),
        y.numpy().reshape(n * c, out_h, out_w),
        _plan_along_row(x_taps.tobytes(), x_taps.shape, up_x, down_x, left, out_w),
        (*_taps_per_phase(y_taps.tobytes(), y_taps.shape, up_y), up_y, down_y, top),
    )
    in_parallel(run_rows, n * c * out_h, arguments, parts=y.numel() // ELEMENTS_PER_THREAD)
    return y


@lru_cache(maxsize=256)
def _taps_per_phase(taps: bytes, shape: tuple[int, int], up: int):
    """Return for each position modulo `up`: taps `[terms, up, max]`, their number, the first index.

    At position p of the zero-inserted signal, tap k reads an input sample if `up` divides p + k.
    """
    f = np.frombuffer(taps).reshape(shape)
    parts = [f[:, -p % up :: up] for p in range(up)]
    packed = np.zeros((shape[0], up, -(-shape[1] // up)), np.float32)
    for p, part in enumerate(parts):
        packed[:, p, : part.shape[1]] = part
    counts = np.array([part.shape[1] for part in parts])
    return packed, counts, np.array([-p % up for p in range(up)])


@lru_cache(maxsize=256)
def _plan_along_row(taps: bytes, shape: tuple[int, int], up: int, down: int, pad: int, out_w: int):
    """Return the plan of the filter along rows.

    Taps `[terms, R, max]`, number of taps `[R]`, input phase and column that each tap reads first
    `[R, max, 2]`, number of input phases, columns per phase, and the first input sample.
    """
    packed, counts, firsts = _taps_per_phase(taps, shape, up)
    num_phases = math.lcm(up, down) // up
    num_outputs = math.lcm(up, down) // down
    positions = np.arange(num_outputs) * down - pad
    order = positions % up
    samples = (positions + firsts[order]) // up
    base = int(samples.min())
    reads = (samples - base)[:, None] + np.arange(packed.shape[2])
    starts = np.stack([reads % num_phases, reads // num_phases], axis=2)
    width = -(-out_w // num_outputs)
    width = -(-width // 32) * 32  # whole vectors
    x_taps = np.ascontiguousarray(packed[:, order])
    return x_taps, counts[order], starts, num_phases, width, base
