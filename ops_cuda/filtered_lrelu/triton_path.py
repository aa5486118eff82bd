"""Fused GPU path: the functions of the reference implementation, by a Triton kernel.

States are those of `packed_states`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ops_cuda.filtered_lrelu import composed
from ops_cuda.filtered_lrelu.packed_states import STATES_PER_BYTE
from ops_cuda.filtered_lrelu.packed_states import states_shape as states_shape
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.filtered_lrelu.triton_tables import (
    MAX_TERMS,
    VECTOR,
    Shape,
    Tile,
    best_tile,
    downsampling_tables,
    first_input,
    terms,
    upsampling_tables,
)
from ops_cuda.fir import filter_size, memory_format_of
from ops_cuda.triton_support import knobs
from ops_cuda.triton_support import missing as missing

if knobs is not None:
    import triton.language as tl

    from ops_cuda.filtered_lrelu import triton_kernel

DEVICE_TYPE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: float32 on tensor cores: three products of tf32 parts, about 1e-6 relative error.
PRECISION = "ieee" if torch.version.hip else "tf32x3"  # AMD's have float32
#: Output blocks per program. Long strips amortise their first step; short ones fill the GPU.
STEPS = 16
#: The kernel processes one plane at a time, so channels-last tensors with more channels than this
#: are copied before and after. That moves three times the minimum number of bytes; strided access
#: would move a sector of 32 bytes per element.
MAX_STRIDED_CHANNELS = 4


def forward(x, fu, fd, b, geometry: Geometry, scale: Tensor | None = None) -> Tensor:
    """Compute `[N, C, H, W]` → `[N, C, H', W']` without storing states.

    `scale` `[N, C]`, if given, multiplies `x` before the bias.
    """
    tile = _tile(x, fu, fd, geometry)
    if tile is None:
        return composed.forward(x, fu, fd, b, geometry, scale)
    return run(x, fu, fd, b, geometry, tile, triton_kernel.APPLY, None, scale)


def forward_with_states(
    x, fu, fd, b, geometry: Geometry, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`forward`, and the packed slope states for the gradient."""
    tile = _tile(x, fu, fd, geometry)
    if tile is None:
        return composed.forward_with_states(x, fu, fd, b, geometry, scale)
    states = x.new_empty(states_shape(x.shape, fu, fd, geometry), dtype=torch.uint8)
    return run(x, fu, fd, b, geometry, tile, triton_kernel.STORE, states, scale), states


def linear(x, fu, fd, states, geometry: Geometry) -> Tensor:
    """Upsample, multiply by the slope of each stored state, downsample."""
    tile = _tile(x, fu, fd, geometry)
    if tile is None:
        return composed.linear(x, fu, fd, states, geometry)
    return run(x, fu, fd, None, geometry, tile, triton_kernel.USE, states)


def _tile(x, fu, fd, geometry: Geometry) -> Tile | None:
    """Return the tile for this call; None if no tile fits, and the composition computes."""
    shape = shape_of(x, fu, fd, geometry)
    if not {shape.up, shape.down} <= {1, 2, 4} or max(shape.u_terms, shape.d_terms) > MAX_TERMS:
        return None
    return best_tile(shape, _shared_memory(x.device))


def shape_of(x, fu, fd, geometry: Geometry) -> Shape:
    """Return the properties of a call that determine its tile."""
    sizes, num_terms = (filter_size(fu), filter_size(fd)), (_num_terms(fu), _num_terms(fd))
    return Shape(geometry.up, geometry.down, *sizes, *num_terms, x.element_size())


@lru_cache
def _shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory per program; those of an H100 without a GPU."""
    if device.type != "cuda":
        return 232448
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def _num_terms(f: Tensor | None) -> int:
    return 1 if f is None or f.ndim == 1 else len(terms(f).x)


def _vector(t: Tensor) -> int:
    """Return the number of elements per load or store; rows must start and end with a vector."""
    sizes = (t.shape[3], *t.stride()[:3], t.data_ptr() // t.element_size())
    if t.stride(3) != 1:
        return 1
    return next(k for k in (VECTOR, 2, 1) if all(size % k == 0 for size in sizes))


def _in_vectors(t: Tensor, vector: int) -> tuple[int, ...]:
    """Return the strides, those of the first three axes in units of vectors."""
    return (*(stride // vector for stride in t.stride()[:3]), t.stride(3))


def run(
    x: Tensor, fu, fd, b, geometry: Geometry, tile: Tile, mode: int, states: Tensor | None,
    scale: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Launch the kernel with the given tile."""
    n, channels, height, width = x.shape
    middle_w, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    memory_format = memory_format_of(x)
    if memory_format == torch.channels_last and channels > MAX_STRIDED_CHANNELS:
        y = run(x.contiguous(), fu, fd, b, geometry, tile, mode, states, scale)
        return y.contiguous(memory_format=memory_format)
    y = torch.empty(
        [n, channels, out_h, out_w], dtype=x.dtype, device=x.device, memory_format=memory_format
    )
    if y.numel() == 0:
        return y
    offset_x, offset_y = geometry.offset or (0, 0)
    # Tiles start at whole bytes of states, up to three columns early.
    lead = offset_x % STATES_PER_BYTE
    uy, ux = upsampling_tables(fu, geometry, lead, tile, x.dtype, x.device)
    dx, dy = downsampling_tables(fd, geometry, lead, tile, x.dtype, x.device)
    blocks = -(-out_h // (tile.sm // geometry.down))
    strips, segments = -(-out_w // tile.valid), -(-blocks // STEPS)
    x_vector, y_vector = _vector(x), _vector(y)
    strides = (*_in_vectors(x, x_vector), *_in_vectors(y, y_vector))
    left, _, top, _ = geometry.padding
    triton_kernel.filtered_lrelu_kernel[(n * channels * strips * segments,)](
        x, None if scale is None else scale.contiguous(), b, y, states, uy, ux, dx, dy, *strides,
        channels, height, width // x_vector, out_h, out_w // y_vector, middle_h, middle_w,
        0 if states is None else states.shape[2], 0 if states is None else states.shape[3] // 4,
        offset_x // STATES_PER_BYTE, offset_y,
        first_input(geometry.up, top), first_input(geometry.up, left + lead, VECTOR) // x_vector,
        strips, segments, STEPS, (middle_h - 1) // tile.sm,
        geometry.slope, 0.0 if geometry.clamp is None else geometry.clamp,
        **constants(geometry, tile, x.dtype),
        MODE=mode, HAS_SCALE=scale is not None, HAS_BIAS=b is not None,
        U_TERMS=len(uy), D_TERMS=len(dx), X_VECTOR=x_vector, Y_VECTOR=y_vector,
        num_warps=tile.num_warps, num_stages=1, enable_fp_fusion=True,
    )  # fmt: skip
    return y


def constants(geometry: Geometry, tile: Tile, dtype: torch.dtype) -> dict:
    """Return the compile-time arguments of the kernel for a geometry, tile and dtype."""
    rounding = getattr(tl, str(dtype).removeprefix("torch."))
    # Triton's interpreter multiplies the bits of bfloat16 as integers.
    operand = tl.float32 if knobs.runtime.interpret else rounding
    return dict(
        HAS_CLAMP=geometry.clamp is not None, CONVEX=0 <= geometry.slope <= 1, UP=geometry.up,
        DOWN=geometry.down, IN_Y=tile.in_y, SM=tile.sm, IN_X=tile.in_x, MID=tile.mid,
        OUT=tile.out, V=tile.valid, ROUND=rounding, OPERAND=operand, PRECISION=PRECISION,
    )  # fmt: skip
