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
from itertools import pairwise

import numpy as np
import torch

from ops_cuda.filtered_lrelu.definition import Geometry
from ops_cuda.fir import filter_size

try:
    import numba
except ImportError:  # the definition serves every machine
    numba = None

APPLY_LRELU, STORE_STATES, USE_STATES = 0, 1, 2
#: Planes lie side by side in rows of about this many floats: long loops that stay in L1.
ROW_LENGTH = 640


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
    """Result and slope states `[groups, H_middle, L, planes, columns]` (a layout of its own)."""
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
    _, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    phases = math.lcm(geometry.up, geometry.down)
    if mode == USE_STATES:
        group, stride = states.shape[3:]
    else:
        there = _columns(geometry, width, fu, fd)
        back = _columns(geometry.transposed(x.shape, fu, fd), out_w, fd, fu)
        group, stride = _row_layout(max(there, back))
    num_groups = -(-n * c // group)
    if mode == STORE_STATES:
        shape = [num_groups, middle_h, phases, group, stride]
        states = torch.empty(shape, dtype=torch.uint8)
    elif mode == APPLY_LRELU:
        states = torch.empty([1, 1, 1, 1, 1], dtype=torch.uint8)
    y = torch.empty([n, c, out_h, out_w], dtype=torch.float32)
    bias = np.zeros(c, np.float32) if b is None else b.detach().float().numpy()
    clamp = np.float32(np.inf if geometry.clamp is None else geometry.clamp)
    arguments = (
        x.detach().contiguous().numpy().reshape(n * c, height, width),
        bias,
        _taps(fu, geometry.flip_filter, geometry.up),
        _taps(fd, geometry.flip_filter, 1),
        y.numpy().reshape(n * c, out_h, out_w),
        states.flatten(3).numpy(),
        (geometry.up, geometry.down, geometry.padding[0], geometry.padding[2], phases),
        (group, stride, middle_h, *(geometry.offset or (0, 0)), mode),
        (np.float32(geometry.gain), np.float32(geometry.slope), clamp),
    )
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
        _kernel()(0, num_groups, *arguments)
        return
    bounds = [num_groups * i // num_threads for i in range(num_threads + 1)]
    kernel = _kernel()
    jobs = [
        _pool(num_threads).submit(kernel, first, last, *arguments)
        for first, last in list(pairwise(bounds))[1:]
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

    return jit(_groups)


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
    """Write `source` to every `step`-th element of `target`."""
    if step == 1:
        for j in range(len(target)):
            target[j] = source[j]
    elif step == 2:
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
def _load_row(target, line, bias, first_input, start, stride):
    """Sample i = first_input + E·n + e of `line` goes to `target[e, start + n]`, n < stride."""
    num_inputs = len(target)
    for e in range(num_inputs):
        low = max(0, -((first_input + e) // num_inputs))
        high = min((len(line) - 1 - first_input - e) // num_inputs + 1, stride)
        if high <= low:
            continue
        source = line[first_input + e + num_inputs * low :]
        kept = target[e, start + low : start + high]
        if num_inputs == 1:
            for j in range(len(kept)):
                kept[j] = source[j] + bias
        else:
            for j in range(len(kept)):
                kept[j] = source[num_inputs * j] + bias


@_inline
def _activate(row, states, shift, mode, gain, slope, clamp):
    """The leaky ReLU storing its states, or the stored slopes, on one phase of a fine row."""
    low, high = max(0, -shift), min(len(row), len(states) - shift)
    stored = states[low + shift : high + shift]
    if mode == 1:
        _lrelu_row_storing(row[low:high], stored, gain, slope, clamp)
    else:
        _scale_row_by_states(row[low:high], stored, gain, slope)


def _groups(first, last, x, bias, fu, fd, y, states, resampling, grid, activation):
    """Groups first..last−1 of planes of `x` `[planes, H, W]` into `y` `[planes, H', W']`.

    The planes of a group lie side by side, `stride` columns apart, in every row below.
    """
    up, down, pad_left, pad_top, num_phases = resampling
    group, stride, middle_h, offset_x, offset_y, mode = grid
    gain, slope, clamp = activation
    height = x.shape[1]
    out_h, _out_w = y.shape[1:]
    num_inputs, num_outputs = num_phases // up, num_phases // down
    columns = _round_up(group * stride, 32)
    margin = _round_up(8 + (len(fu) + len(fd)) // num_phases, 32)

    # Fine position m lies at a = m − pad_left relative to input sample 0, and at column
    # (a − base)//L of phase (a − base) mod L, with base a multiple of L.
    base = -pad_left // num_phases * num_phases
    lead = -pad_left - base
    up_taps, up_starts = _upsampling_plan(up, num_phases, fu)
    down_starts = _downsampling_plan(down, num_phases, len(fd), lead)
    down_taps = np.zeros(_round_up(len(fd), 6), np.float32)
    down_taps[: len(fd)] = fd
    num_rows = up_taps.shape[1]
    row_taps = np.zeros(num_rows, np.float32)
    row_starts = np.zeros((num_rows, 2), np.int64)
    row_starts[:, 0] = np.arange(num_rows)
    ring_starts = np.zeros((len(down_taps), 2), np.int64)
    row_of = np.zeros(num_rows, np.int64)

    rows = np.zeros((num_rows, num_inputs, columns + margin), np.float32)
    flat_rows = rows.reshape(num_rows, num_inputs * (columns + margin))
    inputs = np.zeros((num_inputs, columns + margin), np.float32)
    flat_inputs = inputs.reshape(num_inputs * (columns + margin))
    fine = np.zeros((num_phases, columns + margin), np.float32)
    ring = np.zeros((len(fd), num_outputs * columns), np.float32)
    finished = np.zeros(num_outputs * columns, np.float32)

    for index in range(first, last):
        plane = index * group
        num_planes = min(group, len(x) - plane)
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
                        for i in range(num_planes):
                            _load_row(
                                rows[slot], x[plane + i, source], bias[(plane + i) % len(bias)],
                                base // up, i * stride, stride,
                            )  # fmt: skip
                k += up
                source += 1
            _fir_row(flat_inputs, row_taps, flat_rows, row_starts)
            stored_y = m + offset_y
            known = mode != 0 and 0 <= stored_y < states.shape[1]
            for p in range(num_phases):
                row = fine[p, :columns]
                _fir_row(row, up_taps[p], inputs, up_starts[p])
                if mode == 0:
                    _lrelu_row(row, gain, slope, clamp)
                elif known:
                    stored_x = p - lead + offset_x
                    stored = states[index, stored_y, stored_x % num_phases]
                    _activate(row, stored, stored_x // num_phases, mode, gain, slope, clamp)
            for r in range(num_outputs):
                line = ring[m % len(fd), r * columns : (r + 1) * columns]
                _fir_row(line, down_taps, fine, down_starts[r])
            # Vertical downsampling as soon as the last row that an output needs is there.
            done = m - len(fd) + 1
            if done >= 0 and done % down == 0 and done // down < out_h:
                for t in range(len(fd)):
                    ring_starts[t, 0] = (done + t) % len(fd)
                _fir_row(finished, down_taps, ring, ring_starts)
                for i in range(num_planes):
                    for r in range(num_outputs):
                        start = r * columns + i * stride
                        target = y[plane + i, done // down, r:]
                        _interleave(target, finished[start : start + stride], num_outputs)
