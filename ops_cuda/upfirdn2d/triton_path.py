"""GPU path: one launch of a Triton kernel for a 2-D filter, two for a separable one."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ops_cuda.fir import filter_size
from ops_cuda.triton_support import knobs
from ops_cuda.triton_support import missing as missing
from ops_cuda.upfirdn2d.reference import Resampling

if knobs is not None:
    import triton

    from ops_cuda.upfirdn2d.triton_kernel import upfirdn2d_kernel

DEVICE_TYPE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Outputs per program, and the maximum number of them along a row.
BLOCK, LONGEST_ROW = 1024, 64


def run(x: Tensor, f: Tensor | None, spec: Resampling) -> Tensor:
    """Return the values of the reference path in the memory format of `x`."""
    if f is None or f.ndim == 2:
        return _launch(x, f, spec)
    left, right, top, bottom = spec.padding
    # Each of the two launches applies it once.
    gain = math.sqrt(spec.gain)
    rows = replace(
        spec, up=(spec.up[0], 1), down=(spec.down[0], 1), padding=(left, right, 0, 0), gain=gain
    )
    columns = replace(
        spec, up=(1, spec.up[1]), down=(1, spec.down[1]), padding=(0, 0, top, bottom), gain=gain
    )
    return _launch(_launch(x, f[None, :], rows), f[:, None], columns)


def _launch(x: Tensor, f: Tensor | None, spec: Resampling) -> Tensor:
    n, channels, height, width = x.shape
    out_w, out_h = spec.output_size(width, height, f)
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    y = torch.empty(
        [n, channels, out_h, out_w], dtype=x.dtype, device=x.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )  # fmt: skip
    if y.numel() == 0:
        return y
    inner, outer = (channels, out_w * out_h) if channels_last else (out_w, out_h)
    columns = min(triton.next_power_of_2(inner), LONGEST_ROW)
    rows = min(triton.next_power_of_2(outer), BLOCK // columns)
    blocks = triton.cdiv(inner, columns) * triton.cdiv(outer, rows)
    left, _, top, _ = spec.padding
    taps_x, taps_y = filter_size(f)
    upfirdn2d_kernel[(blocks * n * (1 if channels_last else channels),)](
        x, f, y, *x.stride(), *y.stride(), *(f.stride() if f is not None else (0, 0)),
        channels, height, width, out_h, out_w, left // spec.up[0], top // spec.up[1],
        left % spec.up[0], top % spec.up[1], spec.gain,
        UP_X=spec.up[0], UP_Y=spec.up[1], DOWN_X=spec.down[0], DOWN_Y=spec.down[1],
        TAPS_X=taps_x, TAPS_Y=taps_y, HAS_F=f is not None, FLIP=spec.flip_filter,
        CHANNELS_LAST=channels_last, ROWS=rows, COLUMNS=columns, num_warps=4,
        enable_fp_fusion=True,
    )  # fmt: skip
    return y
