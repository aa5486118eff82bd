"""The fused CPU path: one plane at a time, row by row, so the upsampled signal stays in cache.

Signals are held split into phases, so that every inner loop runs over contiguous memory:
with `L = lcm(up, down)` the fine grid has L phases, the input `E = L/up` and the output
`R = L/down` of them; all of a phase's samples share the same filter taps.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from ops_cuda.filtered_lrelu.definition import CLAMPED, NEGATIVE, Geometry

try:
    import numba
except ImportError:  # the definition serves every machine
    numba = None

APPLY_LRELU, STORE_STATES, USE_STATES = 0, 1, 2


def supports(x: torch.Tensor, fu: torch.Tensor | None, fd: torch.Tensor | None) -> bool:
    """True for float32 CPU tensors with separable filters, where Numba is installed."""
    return (
        numba is not None
        and os.environ.get("SG3_OPS", "auto") != "reference"
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and all(f is None or f.ndim == 1 for f in (fu, fd))
    )


def forward(x, fu, fd, b, geometry: Geometry) -> torch.Tensor:
    """`[N, C, H, W]` → `[N, C, H', W']` without keeping anything for a gradient."""
    return _run(x, fu, fd, b, geometry, APPLY_LRELU, None)[0]


def forward_with_states(x, fu, fd, b, geometry: Geometry):
    """Result and slope states `[N, C, H_middle, L, ceil(W_middle/L)]` (this path's own layout)."""
    return _run(x, fu, fd, b, geometry, STORE_STATES, None)


def linear(x, fu, fd, states, geometry: Geometry) -> torch.Tensor:
    """Upsample, multiply by stored slopes, downsample."""
    return _run(x, fu, fd, None, geometry, USE_STATES, states)[0]


def _taps(f: torch.Tensor | None, flip_filter: bool, gain: float) -> np.ndarray:
    """Correlation taps of one axis."""
    taps = np.ones(1, np.float32) if f is None else f.detach().numpy()
    return np.ascontiguousarray(taps if flip_filter else taps[::-1]) * np.float32(gain)


def _run(x, fu, fd, b, geometry: Geometry, mode: int, states):
    n, c, height, width = x.shape
    middle_w, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    phases = math.lcm(geometry.up, geometry.down)
    if mode == STORE_STATES:
        columns = -(-middle_w // phases)
        states = torch.empty([n, c, middle_h, phases, columns], dtype=torch.uint8)
    elif mode == APPLY_LRELU:
        states = torch.empty([1, 1, 1, 1, 1], dtype=torch.uint8)
    y = torch.empty([n, c, out_h, out_w], dtype=torch.float32)
    bias = np.zeros(c, np.float32) if b is None else b.detach().float().numpy()
    offset_x, offset_y = geometry.offset or (0, 0)
    clamp = np.float32(np.inf if geometry.clamp is None else geometry.clamp)
    arguments = (
        x.detach().contiguous().numpy().reshape(n * c, height, width),
        bias,
        _taps(fu, geometry.flip_filter, geometry.up),
        _taps(fd, geometry.flip_filter, 1),
        y.numpy().reshape(n * c, out_h, out_w),
        states.numpy().reshape(-1, *states.shape[2:]),
        (geometry.up, geometry.down, geometry.padding[0], geometry.padding[2], phases),
        (middle_w, middle_h, offset_x, offset_y, mode),
        (np.float32(geometry.gain), np.float32(geometry.slope), clamp),
    )
    _for_planes(n * c, arguments)
    return y, states


def _for_planes(num_planes: int, arguments: tuple) -> None:
    """Run the kernel over all planes, shared among as many threads as torch uses."""
    num_threads = min(torch.get_num_threads(), num_planes)
    if num_threads <= 1:
        _kernel()(0, num_planes, *arguments)
        return
    bounds = [num_planes * i // num_threads for i in range(num_threads + 1)]
    kernel = _kernel()
    jobs = [
        _pool(num_threads).submit(kernel, first, last, *arguments)
        for first, last in zip(bounds[1:-1], bounds[2:])
    ]
    kernel(bounds[0], bounds[1], *arguments)
    for job in jobs:
        job.result()


@lru_cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads - 1, thread_name_prefix="ops_cuda")


@lru_cache
def _kernel():
    """Compile on first use (cached on disk); import stays fast."""
    jit = numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")

    return jit(_planes)


if numba is not None:
    _inline = numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
else:

    def _inline(function):
        return function


@_inline
def _fir6(out, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4, t5):
    for j in range(len(out)):
        out[j] = (t0 * s0[j] + t1 * s1[j] + t2 * s2[j]) + (t3 * s3[j] + t4 * s4[j] + t5 * s5[j])


@_inline
def _fir6_add(out, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4, t5):
    for j in range(len(out)):
        out[j] += (t0 * s0[j] + t1 * s1[j] + t2 * s2[j]) + (t3 * s3[j] + t4 * s4[j] + t5 * s5[j])


@_inline
def _fir_row(out, taps, sources, starts):
    """`out[j] = Σ_t taps[t]·sources[row_t, column_t + j]`, six terms a pass.

    The number of taps and the length of `out` are multiples of six and of 32: LLVM turns
    these loops, and hardly any other shape of them, into straight vector code.
    """
    n = len(out)
    for t in range(0, len(taps), 6):
        s0 = sources[starts[t, 0], starts[t, 1] : starts[t, 1] + n]
        s1 = sources[starts[t + 1, 0], starts[t + 1, 1] : starts[t + 1, 1] + n]
        s2 = sources[starts[t + 2, 0], starts[t + 2, 1] : starts[t + 2, 1] + n]
        s3 = sources[starts[t + 3, 0], starts[t + 3, 1] : starts[t + 3, 1] + n]
        s4 = sources[starts[t + 4, 0], starts[t + 4, 1] : starts[t + 4, 1] + n]
        s5 = sources[starts[t + 5, 0], starts[t + 5, 1] : starts[t + 5, 1] + n]
        t0, t1, t2, t3, t4, t5 = (
            taps[t], taps[t + 1], taps[t + 2], taps[t + 3], taps[t + 4], taps[t + 5],
        )  # fmt: skip
        if t == 0:
            _fir6(out, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4, t5)
        else:
            _fir6_add(out, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4, t5)


@_inline
def _lrelu_row(row, gain, slope, clamp):
    for j in range(len(row)):
        v = row[j] * gain
        v = v * slope if v < 0 else v
        v = clamp if v > clamp else v
        row[j] = -clamp if v < -clamp else v


@_inline
def _lrelu_row_storing(row, states, gain, slope, clamp):
    for j in range(len(row)):
        v = row[j] * gain
        state = np.uint8(v < 0)
        v = v * slope if v < 0 else v
        states[j] = np.uint8(2) if abs(v) > clamp else state
        v = clamp if v > clamp else v
        row[j] = -clamp if v < -clamp else v


@_inline
def _scale_row_by_states(row, states, gain, slope):
    negative = gain * slope
    for j in range(len(row)):
        state = states[j]
        factor = negative if state == 1 else gain
        row[j] *= np.float32(0) if state == 2 else factor


@_inline
def _interleave(target, source, step):
    if step == 2:
        for j in range((len(target) + 1) // 2):
            target[2 * j] = source[j]
    else:
        for j in range((len(target) + step - 1) // step):
            target[step * j] = source[j]


@_inline
def _round_up(value, multiple):
    return -(-value // multiple) * multiple


@_inline
def _upsampling_plan(up, num_phases, taps):
    """Per fine phase: taps, and the input phase and column that each of them reads."""
    num_input_phases = num_phases // up
    most = _round_up(-(-len(taps) // up), 6)
    plan_taps = np.zeros((num_phases, most), np.float32)
    starts = np.zeros((num_phases, most, 2), np.int64)
    for p in range(num_phases):
        within = p % up
        k = up - within if within else 0
        source = p // up + (1 if within else 0)
        t = 0
        while k < len(taps):
            plan_taps[p, t] = taps[k]
            starts[p, t, 0] = source % num_input_phases
            starts[p, t, 1] = source // num_input_phases
            t += 1
            k += up
            source += 1
    return plan_taps, starts


@_inline
def _downsampling_plan(down, num_phases, num_taps, lead):
    """Per output phase, the fine phase and column that each tap reads."""
    starts = np.zeros((num_phases // down, _round_up(num_taps, 6), 2), np.int64)
    for r in range(num_phases // down):
        for k in range(num_taps):
            position = r * down + k + lead
            starts[r, k, 0] = position % num_phases
            starts[r, k, 1] = position // num_phases
    return starts


@_inline
def _split_row(row, inputs, first_input, width):
    """Input sample i = first_input + E·n + e goes to `inputs[e, n]`."""
    num_inputs = len(inputs)
    for e in range(num_inputs):
        low = max(0, -((first_input + e) // num_inputs))
        high = min((width - 1 - first_input - e) // num_inputs + 1, inputs.shape[1])
        if high <= low:
            continue
        source = row[first_input + e + num_inputs * low :]
        target = inputs[e, low:high]
        if num_inputs == 1:
            for j in range(len(target)):
                target[j] = source[j]
        else:
            for j in range(len(target)):
                target[j] = source[num_inputs * j]


@_inline
def _activate(row, states, shift, mode, gain, slope, clamp):
    """The leaky ReLU, or the stored slopes, on one phase of one fine row."""
    if mode == 0:
        _lrelu_row(row, gain, slope, clamp)
        return
    low, high = max(0, -shift), min(len(row), len(states) - shift)
    if high <= low:
        return
    stored = states[low + shift : high + shift]
    if mode == 1:
        _lrelu_row_storing(row[low:high], stored, gain, slope, clamp)
    else:
        _scale_row_by_states(row[low:high], stored, gain, slope)


def _planes(first, last, x, bias, fu, fd, y, states, resampling, grid, activation):
    """Planes first..last−1 of `x` `[planes, H, W]` into `y` `[planes, H', W']`."""
    up, down, pad_left, pad_top, num_phases = resampling
    middle_w, middle_h, offset_x, offset_y, mode = grid
    gain, slope, clamp = activation
    height, width = x.shape[1:]
    out_h, out_w = y.shape[1:]
    num_inputs, num_outputs = num_phases // up, num_phases // down

    # Fine position m lies at a = m − pad_left relative to input sample 0, and at column
    # (a − base)//L of phase (a − base) mod L, with base a multiple of L.
    base = -pad_left // num_phases * num_phases
    lead = -pad_left - base
    columns = _round_up((lead + middle_w + num_phases - 1) // num_phases, 32)
    up_taps, up_starts = _upsampling_plan(up, num_phases, fu)
    down_starts = _downsampling_plan(down, num_phases, len(fd), lead)
    down_taps = np.zeros(_round_up(len(fd), 6), np.float32)
    down_taps[: len(fd)] = fd
    out_columns = _round_up(-(-out_w // num_outputs), 32)
    fine_columns = max(columns, out_columns) + len(fd) // num_phases + 3

    # Rows of the plane (with bias) that the vertical filter needs, then one row of each stage.
    num_rows = up_taps.shape[1]
    row_alloc = _round_up(width, 32)
    rows = np.zeros((num_rows, row_alloc), np.float32)
    row_of = np.full(num_rows, -1, np.int64)
    row_starts = np.zeros((num_rows, 2), np.int64)
    row_starts[:, 0] = np.arange(num_rows)
    ring_starts = np.zeros((len(down_taps), 2), np.int64)
    row_taps = np.zeros(num_rows, np.float32)
    vertical = np.zeros(row_alloc, np.float32)
    inputs = np.zeros((num_inputs, columns + len(fu) // num_phases + 3), np.float32)
    fine = np.zeros((num_phases, fine_columns), np.float32)
    outputs = np.zeros((num_outputs, out_columns), np.float32)
    ring_alloc = _round_up(out_w, 32)
    ring = np.zeros((len(fd), ring_alloc), np.float32)
    finished = np.zeros(ring_alloc, np.float32)

    for plane in range(first, last):
        b = bias[plane % len(bias)]
        row_of[:] = -1
        for m in range(middle_h):
            a = m - pad_top
            within = a % up
            source = a // up + (1 if within else 0)
            k = up - within if within else 0
            row_taps[:] = 0
            while k < len(fu):
                if 0 <= source < height:
                    slot = source % num_rows
                    row_taps[slot] = fu[k]
                    if row_of[slot] != source:
                        row_of[slot] = source
                        line, kept = x[plane, source], rows[slot, :width]
                        for j in range(len(kept)):
                            kept[j] = line[j] + b
                k += up
                source += 1
            _fir_row(vertical, row_taps, rows, row_starts)
            _split_row(vertical, inputs, base // up, width)
            stored_y = m + offset_y
            known = mode == 0 or 0 <= stored_y < states.shape[1]
            for p in range(num_phases):
                _fir_row(fine[p, :columns], up_taps[p], inputs, up_starts[p])
                stored_x = p - lead + offset_x
                phase, shift = stored_x % num_phases, stored_x // num_phases
                if known:
                    stored = states[
                        plane * (mode != 0), stored_y * (mode != 0), phase * (mode != 0)
                    ]
                    _activate(fine[p, :columns], stored, shift, mode, gain, slope, clamp)
            line = ring[m % len(fd)]
            for r in range(num_outputs):
                if num_outputs == 1:
                    _fir_row(line, down_taps, fine, down_starts[r])
                else:
                    _fir_row(outputs[r], down_taps, fine, down_starts[r])
                    _interleave(line[r:out_w], outputs[r], num_outputs)
            # Vertical downsampling as soon as the last row that an output needs is there.
            done = m - len(fd) + 1
            if done >= 0 and done % down == 0 and done // down < out_h:
                for t in range(len(fd)):
                    ring_starts[t, 0] = (done + t) % len(fd)
                _fir_row(finished, down_taps, ring, ring_starts)
                target = y[plane, done // down]
                for j in range(out_w):
                    target[j] = finished[j]
