"""Fused GPU kernel: resampling as products with banded matrices, tile by tile.

Each program moves a strip of V output columns down the image in steps of `SM` upsampled rows:

    M = Uy · X · Ux      upsampled rows of this step       [SM, MID]
    T = act(M) · Dx      activated, columns downsampled    [SM, OUT]
    Y = D0 · T + D1 · T' output rows of the previous step  [SO, OUT], T' from the next step

The matrices hold the taps (`triton_tables`); for 2-D filters the products are summed over the
separable terms. Only x, y and the 2-bit states are in global memory. Sums are in float32; operands
are rounded to the dtype of x, at most as often as in a composition of plain operators.
"""

# Triton's language, not Python: tuples grow in unrolled loops.
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

APPLY, STORE, USE = 0, 1, 2


@triton.jit
def _rounded(v, ROUND: tl.constexpr, OPERAND: tl.constexpr):
    """Round `v` to ROUND and cast to OPERAND; the types differ only in the interpreter."""
    return v.to(ROUND).to(OPERAND)


@triton.jit
def _leaky_relu(m, slope, CONVEX: tl.constexpr):
    if CONVEX:  # 0 ≤ slope ≤ 1
        v = tl.maximum(m, m * slope)
    else:
        v = tl.where(m < 0, m * slope, m)
    return v


@triton.jit
def _packed_states(
    m, v, clamp, HAS_CLAMP: tl.constexpr, MID: tl.constexpr,
):  # fmt: skip
    """2-bit states (0 positive, 1 negative, 2 clamped) as `[SM, MID / 4]` bytes.

    Packing is a product with a constant matrix, since a tile in registers cannot be shifted.
    Small integers are exact in float16.
    """
    codes = tl.where(m < 0, 1.0, 0.0)
    if HAS_CLAMP:
        codes = tl.where(tl.abs(v) > clamp, 2.0, codes)
    fine, byte = tl.arange(0, MID)[:, None], tl.arange(0, MID // 4)[None, :]
    places = tl.where(fine // 4 == byte, (1 << 2 * (fine % 4)).to(tl.float32), 0.0)
    return tl.dot(codes.to(tl.float16), places.to(tl.float16)).to(tl.uint8)


@triton.jit
def _slopes(
    states, row, byte, SH, SW, slope, SM: tl.constexpr, MID: tl.constexpr,
):  # fmt: skip
    """Slopes `[SM, MID]` from the stored states at `row` and `byte`; 1 outside."""
    rows, columns = row + tl.arange(0, SM), byte + tl.arange(0, MID // 4)
    inside = ((rows >= 0) & (rows < SH))[:, None] & ((columns >= 0) & (columns < SW))[None, :]
    at = rows.to(tl.int64)[:, None] * SW + columns[None, :]
    packed = tl.load(states + at, inside, other=0).to(tl.int32)
    spread = tl.reshape(tl.broadcast_to(packed[:, :, None], [SM, MID // 4, 4]), [SM, MID])
    codes = spread >> (2 * (tl.arange(0, MID) % 4))[None, :]
    return tl.where((codes & 2) != 0, 0.0, tl.where((codes & 1) != 0, slope, 1.0))


@triton.jit
def _matrix(table, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OPERAND: tl.constexpr):
    """Load matrix `index` `[ROWS, COLUMNS]` of a table."""
    table += index * ROWS * COLUMNS
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    return tl.load(table + rows[:, None] * COLUMNS + columns[None, :]).to(OPERAND)


@triton.jit
def _store_rows(
    y, value, block, first, strip, OH, OW, y_sh, y_sw,
    SO: tl.constexpr, OUT: tl.constexpr, V: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store output rows `block·SO …` of this strip, unless `block` is before `first`."""
    rows, columns = block * SO + tl.arange(0, SO), tl.arange(0, OUT)
    ours = (rows >= first * SO) & (rows < OH)
    columns_ours = (columns // VECTOR < V // VECTOR) & (
        strip * (V // VECTOR) + columns // VECTOR < OW
    )
    corner = y + tl.cast(block, tl.int64) * SO * y_sh + strip.to(tl.int64) * V * y_sw
    at = tl.arange(0, SO)[:, None] * y_sh + columns[None, :] * y_sw
    tl.store(corner + at, value, mask=ours[:, None] & columns_ours[None, :])


@triton.jit(do_not_specialize=["ox", "oy", "row0", "col0", "steps", "last_step"])
def filtered_lrelu_kernel(
    x, scale, b, y, states, uy, ux, dx, dy,
    x_sn, x_sc, x_sh, x_sw, y_sn, y_sc, y_sh, y_sw,
    C, H, W, OH, OW, MH, MW, SH, SW, ox, oy, row0, col0,
    strips, segments, steps, last_step, slope, clamp,
    MODE: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_CLAMP: tl.constexpr, CONVEX: tl.constexpr,
    UP: tl.constexpr, DOWN: tl.constexpr, U_TERMS: tl.constexpr, D_TERMS: tl.constexpr,
    IN_Y: tl.constexpr, SM: tl.constexpr, IN_X: tl.constexpr, MID: tl.constexpr,
    OUT: tl.constexpr, V: tl.constexpr,
    X_VECTOR: tl.constexpr, Y_VECTOR: tl.constexpr,
    ROUND: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute `steps` blocks of `SM // DOWN` output rows of one strip of one plane.

    MODE 0 applies the leaky ReLU, 1 also stores states, 2 multiplies by stored slopes.
    """
    SO: tl.constexpr = SM // DOWN
    STATE_BYTES: tl.constexpr = V * DOWN // 4
    # Strides are passed in units of vectors, so that the compiler knows the alignment of rows.
    x_sh, y_sh = x_sh * X_VECTOR, y_sh * Y_VECTOR
    pid = tl.program_id(0)
    strip = pid % strips
    segment = pid // strips % segments
    plane = pid // strips // segments
    n, c = (plane // C).to(tl.int64), (plane % C).to(tl.int64)
    x += n * x_sn * X_VECTOR + c * x_sc * X_VECTOR
    y += n * y_sn * Y_VECTOR + c * y_sc * Y_VECTOR
    if MODE != 0:
        SW *= 4  # bytes per row
        states += plane.to(tl.int64) * SH * SW
    bias = tl.zeros([], OPERAND)
    if HAS_BIAS:
        bias = _rounded(tl.load(b + c), ROUND, OPERAND)
    if HAS_SCALE:
        factor = _rounded(tl.load(scale + plane), ROUND, OPERAND)

    # The constant matrices stay in registers or shared memory: one of each kind per term.
    uys, uxs, dxs, dys, dy_nexts = (), (), (), (), ()
    for term in tl.static_range(U_TERMS):
        uys += (_matrix(uy, term, SM, IN_Y, OPERAND),)
        uxs += (_matrix(ux, term, IN_X, MID, OPERAND),)
    for term in tl.static_range(D_TERMS):
        dxs += (_matrix(dx, term, MID, OUT, OPERAND),)
        dys += (_matrix(dy, 2 * term, SO, SM, OPERAND),)
        dy_nexts += (_matrix(dy, 2 * term + 1, SO, SM, OPERAND),)

    # The first column (and col0) is a multiple of X_VECTOR, and so is W: a vector is either inside
    # or outside the image.
    first_vector = strip * (V * DOWN // UP // X_VECTOR) + col0
    vectors = first_vector + tl.arange(0, IN_X) // X_VECTOR
    column_inside = (vectors >= 0) & (vectors < W)
    window = tl.arange(0, IN_Y)[:, None] * x_sh + tl.arange(0, IN_X)[None, :] * x_sw
    x += first_vector.to(tl.int64) * X_VECTOR * x_sw
    first = segment * steps
    last = tl.minimum(first + steps, last_step)
    # Tiles overlap, but each state has one writer; the last strip and segment write the rest.
    bottom = tl.where(segment == segments - 1, MH, (first + steps) * SM)
    own_words = tl.where(
        strip == strips - 1, SW // 4 - strip * (STATE_BYTES // 4), STATE_BYTES // 4
    )
    j = tl.arange(0, MID // 4)
    used = tl.minimum(tl.maximum(MW - 4 * (strip * STATE_BYTES + j), 0), 4)
    used_bits = ((1 << 2 * used) - 1).to(tl.uint8)
    carried = tl.zeros([SO, OUT], tl.float32)
    for step in range(first, last + 1):
        top = step * (SM // UP) + row0
        rows = top + tl.arange(0, IN_Y)
        inside = ((rows >= 0) & (rows < H))[:, None] & column_inside[None, :]
        corner = x + tl.cast(top, tl.int64) * x_sh
        if HAS_SCALE:
            pixels = tl.load(corner + window, inside, other=0.0).to(OPERAND) * factor
            pixels = tl.where(inside, _rounded(pixels, ROUND, OPERAND) + bias, 0.0)
        else:  # outside the image load −b, so that the padding is zero after the bias
            pixels = tl.load(corner + window, inside, other=(-bias).to(ROUND)).to(OPERAND) + bias
        pixels = _rounded(pixels, ROUND, OPERAND)
        m = tl.zeros([SM, MID], tl.float32)
        for term in tl.static_range(U_TERMS):
            q = tl.dot(uys[term], pixels, input_precision=PRECISION)
            m = tl.dot(_rounded(q, ROUND, OPERAND), uxs[term], m, input_precision=PRECISION)

        fine_rows = step * SM + tl.arange(0, SM)
        if MODE == 2:
            v = m * _slopes(
                states, step * SM + oy, strip * STATE_BYTES + ox, SH, SW, slope, SM, MID
            )
            v = _rounded(v, ROUND, OPERAND)
        else:
            v = _leaky_relu(m, slope, CONVEX)
            if MODE == 1:
                packed = _packed_states(m, v, clamp, HAS_CLAMP, MID) & used_bits[None, :]
                mask = (fine_rows < bottom)[:, None] & (j // 4 < own_words)[None, :]
                corner = states + (tl.cast(step, tl.int64) * SM * SW + strip * STATE_BYTES)
                at = tl.arange(0, SM)[:, None] * SW + j[None, :]
                tl.store(corner + at, packed, mask=mask)
            v = _rounded(v, ROUND, OPERAND)
            if HAS_CLAMP:  # rounding is monotonic, so it may come first: float16 clamps in pairs
                bound = _rounded(tl.full([], clamp, tl.float32), ROUND, OPERAND)
                v = tl.minimum(tl.maximum(v, -bound), bound)

        done = carried
        carried = tl.zeros([SO, OUT], tl.float32)
        for term in tl.static_range(D_TERMS):
            t = tl.dot(v, dxs[term], input_precision=PRECISION)
            t = _rounded(t, ROUND, OPERAND)
            done = tl.dot(dy_nexts[term], t, done, input_precision=PRECISION)
            carried = tl.dot(dys[term], t, carried, input_precision=PRECISION)
        _store_rows(y, done, step - 1, first, strip, OH, OW, y_sh, y_sw, SO, OUT, V, Y_VECTOR)
    if last < first + steps:
        _store_rows(y, carried, last, first, strip, OH, OW, y_sh, y_sw, SO, OUT, V, Y_VECTOR)
