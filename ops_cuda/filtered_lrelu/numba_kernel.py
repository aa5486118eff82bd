"""The loops of the fused CPU path. Names without Numba stay importable, but nobody calls them."""

from __future__ import annotations

import numpy as np

try:
    import numba

    _inline = numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
except ImportError:
    numba = None

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
def _fir_row(out, taps, sources, starts, add):
    """`out[j] = Σ_t taps[t]·sources[row_t, column_t + j]`, six taps a pass, or added to `out`.

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
        if t == 0 and not add:
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
def _lrelu_row_storing(row, codes, gain, slope, clamp):
    for j in range(len(row)):
        v = row[j] * gain
        code = np.uint8(v < 0)
        v = v * slope if v < 0 else v
        codes[j] = np.uint8(2) if abs(v) > clamp else code
        v = clamp if v > clamp else v
        row[j] = -clamp if v < -clamp else v


@_inline
def _scale_row_by_states(row, codes, gain, slope):
    negative = gain * slope
    for j in range(len(row)):
        code = codes[j]
        factor = negative if code == 1 else gain
        row[j] *= np.float32(0) if code == 2 else factor


@_inline
def _pack(states, codes):
    """Four codes to a byte: those of columns j, j + n, j + 2n and j + 3n share byte j."""
    n = len(states)
    first, second, third, fourth = codes[:n], codes[n : 2 * n], codes[2 * n : 3 * n], codes[3 * n :]
    for j in range(n):
        low = first[j] | np.uint8(second[j] << 2)
        states[j] = low | np.uint8(third[j] << 4) | np.uint8(fourth[j] << 6)


@_inline
def _unpack(codes, states):
    n = len(states)
    for quarter in range(4):
        target = codes[quarter * n : (quarter + 1) * n]
        for j in range(n):
            target[j] = np.uint8(states[j] >> (2 * quarter)) & np.uint8(3)


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
    """Per term and fine phase: taps; per phase: input phase and column that each tap reads."""
    num_input_phases = num_phases // up
    most = _round_up(-(-taps.shape[1] // up), 6)
    plan_taps = np.zeros((len(taps), num_phases, most), np.float32)
    starts = np.zeros((num_phases, most, 2), np.int64)
    for p in range(num_phases):
        within = p % up
        k = up - within if within else 0
        source = p // up + (1 if within else 0)
        t = 0
        while k < taps.shape[1]:
            plan_taps[:, p, t] = taps[:, k]
            starts[p, t, 0] = source % num_input_phases
            starts[p, t, 1] = source // num_input_phases
            t += 1
            k += up
            source += 1
    return plan_taps, starts


@_inline
def _downsampling_plan(down, num_phases, taps, lead):
    """Per term: taps; per output phase: the fine phase and column that each tap reads."""
    num_taps = taps.shape[1]
    plan_taps = np.zeros((len(taps), _round_up(num_taps, 6)), np.float32)
    plan_taps[:, :num_taps] = taps
    starts = np.zeros((num_phases // down, plan_taps.shape[1], 2), np.int64)
    for r in range(num_phases // down):
        for k in range(num_taps):
            position = r * down + k + lead
            starts[r, k, 0] = position % num_phases
            starts[r, k, 1] = position // num_phases
    return plan_taps, starts


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
def _activate(row, states, codes, shift, mode, gain, slope, clamp):
    """The leaky ReLU storing its states, or the stored slopes, on one phase of a fine row."""
    low, high = max(0, -shift), min(len(row), len(codes) - shift)
    stored = codes[low + shift : high + shift]
    if mode == 1:
        _lrelu_row_storing(row[low:high], stored, gain, slope, clamp)
        _pack(states, codes)
    else:
        _unpack(codes, states)
        _scale_row_by_states(row[low:high], stored, gain, slope)


@_inline
def run_groups(first, last, x, bias, fu, fd, y, states, resampling, grid, activation):
    """Groups first..last−1 of planes of `x` `[planes, H, W]` into `y` `[planes, H', W']`.

    The planes of a group lie side by side, `stride` columns apart, in every row below.
    """
    up, down, pad_left, pad_top, num_phases = resampling
    group, stride, middle_h, offset_x, offset_y, mode = grid
    gain, slope, clamp = activation
    (up_x, up_y), (down_x, down_y) = fu, fd
    height = x.shape[1]
    out_h, _out_w = y.shape[1:]
    num_inputs, num_outputs = num_phases // up, num_phases // down
    columns = _round_up(group * stride, 32)
    margin = _round_up(8 + (up_x.shape[1] + down_x.shape[1]) // num_phases, 32)

    # Fine position m lies at a = m − pad_left relative to input sample 0, and at column
    # (a − base)//L of phase (a − base) mod L, with base a multiple of L.
    base = -pad_left // num_phases * num_phases
    lead = -pad_left - base
    up_taps, up_starts = _upsampling_plan(up, num_phases, up_x)
    down_taps, down_starts = _downsampling_plan(down, num_phases, down_x, lead)
    num_down = down_y.shape[1]
    column_taps = np.zeros((len(down_y), _round_up(num_down, 6)), np.float32)
    column_taps[:, :num_down] = down_y
    num_rows = _round_up(-(-up_y.shape[1] // up), 6)
    row_taps = np.zeros((len(up_y), num_rows), np.float32)
    row_starts = np.zeros((num_rows, 2), np.int64)
    row_starts[:, 0] = np.arange(num_rows)
    ring_starts = np.zeros((column_taps.shape[1], 2), np.int64)
    row_of = np.zeros(num_rows, np.int64)

    rows = np.zeros((num_rows, num_inputs, columns + margin), np.float32)
    flat_rows = rows.reshape(num_rows, num_inputs * (columns + margin))
    inputs = np.zeros((num_inputs, columns + margin), np.float32)
    flat_inputs = inputs.reshape(num_inputs * (columns + margin))
    fine = np.zeros((num_phases, columns + margin), np.float32)
    ring = np.zeros((len(down_y), num_down, num_outputs * columns), np.float32)
    finished = np.zeros(num_outputs * columns, np.float32)
    codes = np.zeros(4 * states.shape[3], np.uint8)

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
            while k < up_y.shape[1]:
                if 0 <= source < height:
                    slot = source % num_rows
                    row_taps[:, slot] = up_y[:, k]
                    if row_of[slot] != source:
                        row_of[slot] = source
                        for i in range(num_planes):
                            _load_row(
                                rows[slot], x[plane + i, source], bias[(plane + i) % len(bias)],
                                base // up, i * stride, stride,
                            )  # fmt: skip
                k += up
                source += 1
            for term in range(len(up_y)):
                _fir_row(flat_inputs, row_taps[term], flat_rows, row_starts, False)
                for p in range(num_phases):
                    _fir_row(fine[p, :columns], up_taps[term, p], inputs, up_starts[p], term > 0)
            stored_y = m + offset_y
            known = mode != 0 and 0 <= stored_y < states.shape[1]
            for p in range(num_phases):
                row = fine[p, :columns]
                if mode == 0:
                    _lrelu_row(row, gain, slope, clamp)
                elif known:
                    stored_x = p - lead + offset_x
                    stored = states[index, stored_y, stored_x % num_phases]
                    shift = stored_x // num_phases
                    _activate(row, stored, codes, shift, mode, gain, slope, clamp)
            for term in range(len(down_y)):
                for r in range(num_outputs):
                    line = ring[term, m % num_down, r * columns : (r + 1) * columns]
                    _fir_row(line, down_taps[term], fine, down_starts[r], False)
            # Vertical downsampling as soon as the last row that an output needs is there.
            done = m - num_down + 1
            if done >= 0 and done % down == 0 and done // down < out_h:
                for t in range(num_down):
                    ring_starts[t, 0] = (done + t) % num_down
                for term in range(len(down_y)):
                    _fir_row(finished, column_taps[term], ring[term], ring_starts, term > 0)
                for i in range(num_planes):
                    for r in range(num_outputs):
                        start = r * columns + i * stride
                        target = y[plane + i, done // down, r:]
                        _interleave(target, finished[start : start + stride], num_outputs)
