"""GPU path: one Triton kernel, one pass over the data, arithmetic in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ops_cuda.bias_act.reference import ACTIVATIONS, negative_slope
from ops_cuda.triton_support import knobs
from ops_cuda.triton_support import missing as missing

if knobs is not None:
    import triton

    from ops_cuda.bias_act.triton_kernel import bias_act_kernel

DEVICE_TYPE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Elements per program, and the maximum number of them in one row.
BLOCK, LONGEST_ROW = 4096, 1024
#: Column indices are 32-bit.
LONGEST_MATRIX_ROW = 2**30


def supports(act: str, alpha: float, gain: float) -> bool:
    """Whether the activation is known: the kernel has all of them."""
    return act in ACTIVATIONS


def forward(x, b, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """Return the values of the reference implementation in a new tensor of the layout of `x`."""
    return _run(x, x, b, dim, act, alpha, gain, clamp, 0)


def gradient(
    dy, source, b, dim: int, act: str, alpha: float, gain: float, clamp: float | None, order: int
) -> Tensor:
    """Return `dy` times the derivative of the given order.

    `source` is the output for piecewise linear activations, else the input.
    """
    return _run(dy, source, b, dim, act, alpha, gain, clamp, order)


def _run(dy, x, b, dim, act, alpha, gain, clamp, order: int) -> Tensor:
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    x, dy = _same_layout(x, y), _same_layout(dy, y)
    rows, columns, run, of_rows = _as_matrix(y, dim, b is not None)
    block_c = min(triton.next_power_of_2(columns), LONGEST_ROW)
    block_r = BLOCK // block_c
    bias_act_kernel[(triton.cdiv(rows, block_r) * triton.cdiv(columns, block_c),)](
        dy, x, b, y, rows, columns, y.shape[dim], run, alpha, gain,
        0.0 if clamp is None else clamp,
        ORDER=order, ACT=act, HAS_BIAS=b is not None, HAS_CLAMP=clamp is not None,
        FROM_OUTPUT=negative_slope(act, alpha) is not None and gain > 0,
        BIAS_OF_ROWS=of_rows, BLOCK_R=block_r, BLOCK_C=block_c, num_warps=4,
        enable_fp_fusion=True,
    )  # fmt: skip
    return y


def _same_layout(t: Tensor, like: Tensor) -> Tensor:
    return t if t.stride() == like.stride() else torch.empty_like(like).copy_(t)


def _as_matrix(y: Tensor, dim: int, has_bias: bool) -> tuple[int, int, int, bool]:
    """View a dense tensor as a matrix in memory order: (rows, columns, run, bias per row).

    Either each row belongs to one channel, or each row holds all channels with `run` consecutive
    elements each.
    """
    strides = y.stride()
    order = sorted(range(y.ndim), key=lambda i: (-strides[i], i))
    inner = [math.prod(y.shape[i] for i in order[place:]) for place in range(y.ndim + 1)]
    if not has_bias:
        columns = next(size for size in inner if size <= LONGEST_MATRIX_ROW)
        return y.numel() // columns, columns, 1, True
    place = order.index(dim)
    run = inner[place + 1]
    if run >= LONGEST_ROW:
        return y.numel() // run, run, run, True
    return y.numel() // inner[place], inner[place], run, False
