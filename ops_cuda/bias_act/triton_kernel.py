"""GPU kernel of `bias_act`: values, or `dy` times the first or second derivative."""

from __future__ import annotations

import triton
import triton.language as tl

SELU_SCALE = tl.constexpr(1.0507009873554805)
SELU_ALPHA = tl.constexpr(1.6732632423543772)


@triton.jit
def _value(u, alpha, ACT: tl.constexpr):
    """The activation at `u`, without overflow: exponents are never positive."""
    if ACT == "relu":
        u = tl.maximum(u, 0.0)
    elif ACT == "lrelu":
        u = tl.where(u > 0, u, u * alpha)
    elif ACT == "tanh":
        e = tl.exp(-2 * tl.abs(u))
        t = (1 - e) / (1 + e)
        u = tl.where(u < 0, -t, t)
    elif ACT == "sigmoid":
        u = tl.sigmoid(u)
    elif ACT == "elu":
        u = tl.where(u > 0, u, tl.exp(tl.minimum(u, 0.0)) - 1)
    elif ACT == "selu":
        u = SELU_SCALE * tl.where(u > 0, u, SELU_ALPHA * (tl.exp(tl.minimum(u, 0.0)) - 1))
    elif ACT == "softplus":
        u = tl.maximum(u, 0.0) + tl.log(1 + tl.exp(-tl.abs(u)))
    elif ACT == "swish":
        u = u * tl.sigmoid(u)
    return u


@triton.jit
def _first(u, alpha, ACT: tl.constexpr):
    """First derivative at `u`."""
    d = tl.full(u.shape, 1.0, tl.float32)
    if ACT == "relu":
        d = tl.where(u > 0, 1.0, 0.0)
    elif ACT == "lrelu":
        d = tl.where(u > 0, 1.0, alpha)
    elif ACT == "tanh":
        e = tl.exp(-2 * tl.abs(u))
        d = 4 * e / ((1 + e) * (1 + e))
    elif ACT == "sigmoid":
        s = tl.sigmoid(u)
        d = s * (1 - s)
    elif ACT == "elu":
        d = tl.where(u > 0, 1.0, tl.exp(tl.minimum(u, 0.0)))
    elif ACT == "selu":
        d = SELU_SCALE * tl.where(u > 0, 1.0, SELU_ALPHA * tl.exp(tl.minimum(u, 0.0)))
    elif ACT == "softplus":
        d = tl.sigmoid(u)
    elif ACT == "swish":
        s = tl.sigmoid(u)
        d = s * (1 + u * (1 - s))
    return d


@triton.jit
def _second(u, ACT: tl.constexpr):
    """Second derivative at `u`."""
    d = tl.zeros(u.shape, tl.float32)
    if ACT == "tanh":
        t = _value(u, 0.0, "tanh")
        d = -2 * t * _first(u, 0.0, "tanh")
    elif ACT == "sigmoid":
        s = tl.sigmoid(u)
        d = s * (1 - s) * (1 - 2 * s)
    elif ACT == "elu":
        d = tl.where(u < 0, tl.exp(tl.minimum(u, 0.0)), 0.0)
    elif ACT == "selu":
        d = tl.where(u < 0, SELU_SCALE * SELU_ALPHA * tl.exp(tl.minimum(u, 0.0)), 0.0)
    elif ACT == "softplus":
        s = tl.sigmoid(u)
        d = s * (1 - s)
    elif ACT == "swish":
        s = tl.sigmoid(u)
        d = s * (1 - s) * (2 + u * (1 - 2 * s))
    return d


@triton.jit(do_not_specialize=["rows"])
def bias_act_kernel(
    dy, x, b, out, rows, columns, channels, run, alpha, gain, clamp,
    ORDER: tl.constexpr, ACT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_CLAMP: tl.constexpr,
    FROM_OUTPUT: tl.constexpr, BIAS_OF_ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Process one block of a matrix `[rows, columns]`.

    ORDER 0 computes the values at x, ORDER 1 and 2 dy times that derivative at x. The channel is
    `row % channels` with BIAS_OF_ROWS, else `column // run`. With FROM_OUTPUT (piecewise linear
    activations) x holds the outputs.
    """
    per_row = tl.cdiv(columns, BLOCK_C)
    pid = tl.program_id(0)
    r = pid // per_row * BLOCK_R + tl.arange(0, BLOCK_R)
    c = pid % per_row * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (r < rows)[:, None] & (c < columns)[None, :]
    at = r.to(tl.int64)[:, None] * columns + c[None, :]
    u = tl.load(x + at, inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        if BIAS_OF_ROWS:
            u += tl.load(b + r % channels).to(tl.float32)[:, None]
        else:
            u += tl.load(b + c // run, c < columns, other=0.0).to(tl.float32)[None, :]
    if ORDER == 0:
        v = _value(u, alpha, ACT) * gain
        if HAS_CLAMP:
            v = tl.minimum(tl.maximum(v, -clamp), clamp)
    else:
        v = gain * (_first(u, alpha, ACT) if ORDER == 1 else _second(u, ACT))
        v *= tl.load(dy + at, inside, other=0.0).to(tl.float32)
        if HAS_CLAMP:
            size = tl.abs(u) if FROM_OUTPUT else tl.abs(_value(u, alpha, ACT) * gain)
            v = tl.where(size < clamp, v, 0.0)
    tl.store(out + at, v, mask=inside)
