"""Inner loops of the fused CPU path over one row.

LLVM vectorises a loop over few arrays if its inner loops have constant lengths: it unrolls them
and keeps the sums in registers. So there is one function per filter size of StyleGAN3 (six taps
per phase), with several outputs at a time where they read the same samples, and `fir_row` for all
other sizes. Measured on one core with AVX-512: 20 to 35 multiply-adds per nanosecond, 12 to 15 in
`fir_row`.
"""

from __future__ import annotations

import numpy as np

from ops_cuda.numba_support import compiled

inline = compiled(fastmath=True, _nrt=False)
ZERO = np.float32(0)


@inline
def _fir6(out, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4, t5):
    for j in range(len(out)):
        out[j] = (t0 * s0[j] + t1 * s1[j] + t2 * s2[j]) + (t3 * s3[j] + t4 * s4[j] + t5 * s5[j])


@inline
def _fir6_add(out, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4, t5):
    for j in range(len(out)):
        out[j] += (t0 * s0[j] + t1 * s1[j] + t2 * s2[j]) + (t3 * s3[j] + t4 * s4[j] + t5 * s5[j])


@inline
def fir_row(out, taps, sources, starts, add):
    """Compute `out[j] = Σ_t taps[t]·sources[row_t, column_t + j]`, or add it to `out`.

    For any filter, padded with zeros to a multiple of six taps and 32 columns.
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


@inline
def _column6(out, sources, t):
    for j in range(len(out)):
        total = ZERO
        for k in range(6):
            total += t[k] * sources[k, j]
        out[j] = total


@inline
def _column12(out, sources, t):
    for j in range(len(out)):
        total = ZERO
        for k in range(12):
            total += t[k] * sources[k, j]
        out[j] = total


@inline
def _column12_add(out, sources, t):
    for j in range(len(out)):
        total = out[j]
        for k in range(12):
            total += t[k] * sources[k, j]
        out[j] = total


@inline
def fir_column(out, taps, sources, add):
    """Compute `out[j] = Σ_k taps[k]·sources[k, j]`, or add it; 6 taps or a multiple of 12."""
    if len(taps) == 6 and not add:
        _column6(out, sources, taps)
        return
    for k in range(0, len(taps), 12):
        if k == 0 and not add:
            _column12(out, sources[k:], taps[k:])
        else:
            _column12_add(out, sources[k:], taps[k:])


@inline
def up2_from1(out0, out1, s, t):
    """Upsample by 2: both fine phases from one input phase, 12 taps."""
    for j in range(len(out0)):
        a, b = t[0] * s[j], t[11] * s[j + 6]
        for k in range(1, 6):
            v = s[j + k]
            a += t[2 * k] * v
            b += t[2 * k - 1] * v
        out0[j] = a
        out1[j] = b


@inline
def up2_from1_add(out0, out1, s, t):
    """`up2_from1` that adds to the outputs."""
    for j in range(len(out0)):
        a, b = out0[j] + t[0] * s[j], out1[j] + t[11] * s[j + 6]
        for k in range(1, 6):
            v = s[j + k]
            a += t[2 * k] * v
            b += t[2 * k - 1] * v
        out0[j] = a
        out1[j] = b


@inline
def up2_from2(out0, out1, p, q, t):
    """Upsample by 2: two fine phases from two input phases.

    Sample k is `p[j + k//2]` for even k, `q[j + k//2]` for odd k.
    """
    for j in range(len(out0)):
        a, b = ZERO, ZERO
        for k in range(3):
            a += t[4 * k] * p[j + k] + t[4 * k + 2] * q[j + k]
            b += t[4 * k + 1] * q[j + k] + t[4 * k + 3] * p[j + k + 1]
        out0[j] = a
        out1[j] = b


@inline
def up2_from2_add(out0, out1, p, q, t):
    """`up2_from2` that adds to the outputs."""
    for j in range(len(out0)):
        a, b = out0[j], out1[j]
        for k in range(3):
            a += t[4 * k] * p[j + k] + t[4 * k + 2] * q[j + k]
            b += t[4 * k + 1] * q[j + k] + t[4 * k + 3] * p[j + k + 1]
        out0[j] = a
        out1[j] = b


@inline
def up4_from1(out0, out1, out2, out3, s, t):
    """Upsample by 4: all four fine phases from one input phase, 24 taps."""
    for j in range(len(out0)):
        v = s[j + 6]
        a, b, c, d = t[0] * s[j], t[23] * v, t[22] * v, t[21] * v
        for k in range(1, 6):
            v = s[j + k]
            a += t[4 * k] * v
            b += t[4 * k - 1] * v
            c += t[4 * k - 2] * v
            d += t[4 * k - 3] * v
        out0[j] = a
        out1[j] = b
        out2[j] = c
        out3[j] = d


@inline
def down2_of2(out, p, q, t):
    """Downsample by 2, 12 taps.

    Fine sample k is `p[j + k//2]` for even k, `q[j + k//2]` for odd k.
    """
    for j in range(len(out)):
        total = ZERO
        for k in range(6):
            total += t[2 * k] * p[j + k] + t[2 * k + 1] * q[j + k]
        out[j] = total


@inline
def fold_column_two(out0, out1, s, t):
    """Apply two symmetric filters `t` `[2, 12]` down the columns of `s` `[12, n]`."""
    for j in range(len(out0)):
        a, b = ZERO, ZERO
        for k in range(6):
            v = s[k, j] + s[11 - k, j]
            a += t[0, k] * v
            b += t[1, k] * v
        out0[j] = a
        out1[j] = b


@inline
def fold_column_three(out0, out1, out2, s, t):
    """`fold_column_two` for three filters, `t` `[3, 12]`."""
    for j in range(len(out0)):
        a, b, c = ZERO, ZERO, ZERO
        for k in range(6):
            v = s[k, j] + s[11 - k, j]
            a += t[0, k] * v
            b += t[1, k] * v
            c += t[2, k] * v
        out0[j] = a
        out1[j] = b
        out2[j] = c


@inline
def fold2_of2(out, p, q, t, add):
    """`down2_of2` for symmetric taps; optionally adds to `out`."""
    for j in range(len(out)):
        total = out[j] if add else ZERO
        for k in range(6):
            total += t[2 * k] * (p[j + k] + q[j + 5 - k])
        out[j] = total


@inline
def fold2_of4(out0, out1, s0, s1, s2, s3, t, add):
    """`down2_of4` for symmetric taps; optionally adds to the outputs."""
    for j in range(len(out0)):
        a = out0[j] if add else ZERO
        b = out1[j] if add else ZERO
        a += t[0] * (s0[j] + s3[j + 2]) + t[1] * (s1[j] + s2[j + 2])
        a += t[2] * (s2[j] + s1[j + 2]) + t[3] * (s3[j] + s0[j + 2])
        a += t[4] * (s0[j + 1] + s3[j + 1]) + t[5] * (s1[j + 1] + s2[j + 1])
        b += t[0] * (s2[j] + s1[j + 3]) + t[1] * (s3[j] + s0[j + 3])
        b += t[2] * (s0[j + 1] + s3[j + 2]) + t[3] * (s1[j + 1] + s2[j + 2])
        b += t[4] * (s2[j + 1] + s1[j + 2]) + t[5] * (s3[j + 1] + s0[j + 2])
        out0[j] = a
        out1[j] = b


@inline
def down2_of4(out0, out1, s0, s1, s2, s3, t):
    """Downsample by 2, both output phases, 12 taps. Fine sample k is `s_(k mod 4)[j + k//4]`."""
    for j in range(len(out0)):
        a, b = ZERO, ZERO
        for k in range(3):
            a += t[4 * k] * s0[j + k] + t[4 * k + 1] * s1[j + k]
            a += t[4 * k + 2] * s2[j + k] + t[4 * k + 3] * s3[j + k]
            b += t[4 * k] * s2[j + k] + t[4 * k + 1] * s3[j + k]
            b += t[4 * k + 2] * s0[j + k + 1] + t[4 * k + 3] * s1[j + k + 1]
        out0[j] = a
        out1[j] = b


@inline
def down4_of4(out, s0, s1, s2, s3, t):
    """Downsample by 4, 24 taps. Fine sample k is `s_(k mod 4)[j + k//4]`."""
    for j in range(len(out)):
        total = ZERO
        for k in range(6):
            total += t[4 * k] * s0[j + k] + t[4 * k + 1] * s1[j + k]
            total += t[4 * k + 2] * s2[j + k] + t[4 * k + 3] * s3[j + k]
        out[j] = total


@inline
def lrelu_row(row, gain, slope, clamp):
    """Leaky ReLU, gain, clamp. With a slope of at most 1 it is a maximum: faster vector code."""
    if slope <= 1:
        for j in range(len(row)):
            v = row[j] * gain
            row[j] = min(max(max(v, v * slope), -clamp), clamp)
    else:
        for j in range(len(row)):
            v = row[j] * gain
            row[j] = min(max(min(v, v * slope), -clamp), clamp)


@inline
def lrelu_row_storing(row, codes, gain, slope, clamp):
    """`lrelu_row` that also stores slope states: 0 positive, 1 negative, 2 clamped."""
    for j in range(len(row)):
        v = row[j] * gain
        code = np.uint8(v < 0)
        v = v * slope if v < 0 else v
        codes[j] = code if abs(v) <= clamp else np.uint8(2)
        row[j] = min(max(v, -clamp), clamp)


@inline
def scale_row_by_codes(row, codes, gain, slope):
    """Multiply each element by the slope of its stored state."""
    negative = gain * slope
    for j in range(len(row)):
        code = codes[j]
        row[j] *= ZERO if code == 2 else (negative if code == 1 else gain)


@inline
def pack(states, codes):
    """Pack four codes into a byte: byte j holds columns j, j + n, j + 2n and j + 3n.

    Consecutive columns go to consecutive bytes, so the loop vectorises.
    """
    n = len(states)
    first, second, third, fourth = codes[:n], codes[n : 2 * n], codes[2 * n : 3 * n], codes[3 * n :]
    for j in range(n):
        low = first[j] | np.uint8(second[j] << 2)
        states[j] = low | np.uint8(third[j] << 4) | np.uint8(fourth[j] << 6)


@inline
def unpack(codes, states):
    """Invert `pack`."""
    n = len(states)
    for quarter in range(4):
        target = codes[quarter * n : (quarter + 1) * n]
        for j in range(n):
            target[j] = np.uint8(states[j] >> (2 * quarter)) & np.uint8(3)
