"""GPU kernel of `upfirdn2d`: each output only sums the taps that read an input sample."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _first_sample(o, before, phase, UP: tl.constexpr, DOWN: tl.constexpr):
    """First input sample that output `o` reads, and its tap; the padding is `before·UP + phase`."""
    fine = o * DOWN
    sample = (fine - phase + (UP - 1)) // UP
    return sample - before, sample * UP + phase - fine


@triton.jit(do_not_specialize=["before_x", "before_y", "phase_x", "phase_y"])
def upfirdn2d_kernel(
    x, f, y, x_sn, x_sc, x_sh, x_sw, y_sn, y_sc, y_sh, y_sw, f_sy, f_sx,
    C, H, W, OH, OW, before_x, before_y, phase_x, phase_y, gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, HAS_F: tl.constexpr, FLIP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute one block of outputs: rows by columns of a plane, or pixels by channels.

    The latter with CHANNELS_LAST. FLIP reads the taps forwards (correlation), else backwards.
    """
    pid = tl.program_id(0)
    rows, columns = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    if CHANNELS_LAST:
        blocks = tl.cdiv(C, COLUMNS)
        c = pid % blocks * COLUMNS + columns
        pid = pid // blocks
        blocks = tl.cdiv(OH * OW, ROWS)
        pixel = pid % blocks * ROWS + rows
        oy, ox = pixel // OW, pixel % OW
        n = pid // blocks
    else:
        blocks = tl.cdiv(OW, COLUMNS)
        ox = pid % blocks * COLUMNS + columns
        pid = pid // blocks
        blocks = tl.cdiv(OH, ROWS)
        oy = pid % blocks * ROWS + rows
        pid = pid // blocks
        c = pid % C + tl.zeros([1, 1], tl.int32)
        n = pid // C
    ours = (ox < OW) & (oy < OH) & (c < C)
    x += n.to(tl.int64) * x_sn
    y += n.to(tl.int64) * y_sn
    x_channel, y_channel = c.to(tl.int64) * x_sc, c.to(tl.int64) * y_sc
    first_x, tap_x = _first_sample(ox, before_x, phase_x, UP_X, DOWN_X)
    first_y, tap_y = _first_sample(oy, before_y, phase_y, UP_Y, DOWN_Y)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for j in range((TAPS_Y + UP_Y - 1) // UP_Y):
        iy, ky = first_y + j, tap_y + j * UP_Y
        in_y = (iy >= 0) & (iy < H) & (ky < TAPS_Y)
        for i in tl.static_range((TAPS_X + UP_X - 1) // UP_X):
            ix, kx = first_x + i, tap_x + i * UP_X
            inside = in_y & (ix >= 0) & (ix < W) & (kx < TAPS_X)
            at = iy.to(tl.int64) * x_sh + ix.to(tl.int64) * x_sw
            value = tl.load(x + at + x_channel, inside & ours, other=0.0).to(tl.float32)
            if HAS_F:
                if FLIP:
                    tap = ky * f_sy + kx * f_sx
                else:
                    tap = (TAPS_Y - 1 - ky) * f_sy + (TAPS_X - 1 - kx) * f_sx
                value *= tl.load(f + tap, inside, other=0.0).to(tl.float32)
            total += value
    at = oy.to(tl.int64) * y_sh + ox.to(tl.int64) * y_sw
    tl.store(y + at + y_channel, total * gain, mask=ours)
