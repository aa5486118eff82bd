"""The CPU path for images held plane by plane: rows streamed through cache, never zero-stuffed.

An output row is a FIR down the columns of a few input rows, then a FIR along that row, split
into phases so that every loop runs over contiguous memory: with `L = lcm(up, down)` the row of
inputs has `E = L/up` phases, that of outputs `R = L/down`. Rows do not depend on each other, so
threads share them out.
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
#: Filters that need more separable terms than this go to the reference.
MOST_TERMS = 3
#: From this many channels on, depthwise convolutions of channels-last images are as fast as memory.
MANY_CHANNELS = 8
#: Depthwise convolutions are also faster for many rows shorter than this.
NARROW, MANY_ROWS = 32, 2000
#: A thread is woken for this many elements of the result, about a millisecond of work.
ELEMENTS_PER_THREAD = 2**20


def run(x: torch.Tensor, f: torch.Tensor | None, spec: Resampling) -> torch.Tensor:
    """`[N, C, H, W]` float32 → `[N, C, H', W']`."""
    n, c, height, width = x.shape
    out_w, out_h = spec.output_size(width, height, f)
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    short_rows = out_w < NARROW and n * c * out_h > MANY_ROWS
    if x.numel() == 0 or short_rows or (channels_last and c >= MANY_CHANNELS):
        return reference.run(x, f, spec)
    x_taps, y_taps = separable_terms(f, spec.flip_filter, spec.gain)
    if len(x_taps) > MOST_TERMS:
        return reference.run(x, f, spec)
    y = recycled.empty([n, c, out_h, out_w], torch.float32)
    (up_x, up_y), (down_x, down_y) = spec.up, spec.down
    left, _, top, _ = spec.padding
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
    """For each position modulo `up`: taps `[terms, up, most]`, how many, and the first's index.

    At position p of the zero-stuffed signal tap k meets a sample where p + k divides by `up`.
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
    """Taps `[terms, R, most]`, their numbers `[R]`, where each starts to read `[R, most, 2]`
    (input phase, column), the number of input phases, columns, and the sample read first.
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
    width = -(-width // 32) * 32
    x_taps = np.ascontiguousarray(packed[:, order])
    return x_taps, counts[order], starts, num_phases, width, base
