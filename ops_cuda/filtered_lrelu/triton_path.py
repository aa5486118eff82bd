"""The fused GPU path: the same functions as the definition, for CUDA tensors, by Triton.

States are two bits per element of the upsampled grid (0 positive, 1 negative, 2 clamped), four
to a byte, the leftmost lowest, rows filled with zeros to whole words of 16 states:
uint8 `[N, C, H_middle, 4·ceil(W_middle / 16)]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops_cuda.filtered_lrelu import definition
from ops_cuda.filtered_lrelu.definition import Geometry
from ops_cuda.filtered_lrelu.triton_tables import (
    MOST_TERMS,
    STATES_PER_BYTE,
    STATES_PER_WORD,
    VECTOR,
    Terms,
    Tile,
    best_tile,
    downsampling_tables,
    first_input,
    terms,
    upsampling_tables,
)
from ops_cuda.fir import filter_size

try:
    import triton
    import triton.language as tl
    from triton import knobs

    from ops_cuda.filtered_lrelu import triton_kernel
except ImportError:  # Windows and macOS wheels of torch come without it
    triton = None

DEVICE_TYPE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: How tensor cores multiply float32: three products of tf32 parts, about 1e-6 relative error.
PRECISION = "tf32x3"
#: Output blocks per program: long strips amortise their first step, short ones fill the GPU.
STEPS = 16


def missing() -> str:
    """Why this path cannot be had here; empty if it can."""
    if triton is None:
        return "Triton is not installed"
    return "" if torch.cuda.is_available() or knobs.runtime.interpret else "there is no CUDA device"


def states_shape(x_shape, fu, fd, geometry: Geometry) -> list[int]:
    """Shape of the uint8 states that `forward_with_states` returns."""
    width, height = geometry.middle_size(x_shape[3], x_shape[2], fu)
    return [x_shape[0], x_shape[1], height, -(-width // STATES_PER_WORD) * 4]


def forward(x, fu, fd, b, geometry: Geometry) -> Tensor:
    """`[N, C, H, W]` → `[N, C, H', W']` without keeping anything for a gradient."""
    tile = _tile(x, fu, fd, geometry)
    if tile is None:
        return definition.forward(x, fu, fd, b, geometry)
    return run(x, fu, fd, b, geometry, tile, triton_kernel.APPLY, None)


def forward_with_states(x, fu, fd, b, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Result and packed slope states."""
    tile = _tile(x, fu, fd, geometry)
    if tile is None:
        y, states = definition.forward_with_states(x, fu, fd, b, geometry)
        return y, packed(states)
    states = x.new_empty(states_shape(x.shape, fu, fd, geometry), dtype=torch.uint8)
    return run(x, fu, fd, b, geometry, tile, triton_kernel.STORE, states), states


def linear(x, fu, fd, states, geometry: Geometry) -> Tensor:
    """Upsample, multiply by the slope of each stored state, downsample."""
    tile = _tile(x, fu, fd, geometry)
    if tile is None:
        return definition.linear(x, fu, fd, unpacked(states), geometry)
    return run(x, fu, fd, None, geometry, tile, triton_kernel.USE, states)


def packed(states: Tensor) -> Tensor:
    """`[..., W]` states of one byte each → `[..., 4·ceil(W / 16)]` bytes of four."""
    states = torch.nn.functional.pad(states, [0, -states.shape[-1] % STATES_PER_WORD])
    states = states.unflatten(-1, (-1, STATES_PER_BYTE))
    return (states << states.new_tensor([0, 2, 4, 6])).sum(-1, dtype=torch.uint8)


def unpacked(states: Tensor) -> Tensor:
    """`[..., B]` bytes of four states → `[..., 4·B]` states of one byte each."""
    return (states[..., None] >> states.new_tensor([0, 2, 4, 6]) & 3).flatten(-2)


def _tile(x, fu, fd, geometry: Geometry) -> Tile | None:
    """The tile for this call, None where only the definition can compute it."""
    factors = (geometry.up, geometry.down)
    if not set(factors) <= {1, 2, 4} or not _few_terms(fu) or not _few_terms(fd):
        return None
    return best_tile(*factors, filter_size(fu), filter_size(fd))


def _few_terms(f: Tensor | None) -> bool:
    return f is None or f.ndim == 1 or len(terms(f).x) <= MOST_TERMS


def empty_like_format(x: Tensor, shape: list[int]) -> Tensor:
    """An uninitialised tensor in the memory format of `x`: channels-last or contiguous."""
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _aligned(t: Tensor) -> bool:
    """True if every row of `t` starts and ends where a vector does."""
    sizes = (t.shape[3], *t.stride()[:3])
    bytes_per_vector = VECTOR * t.element_size()
    return (
        t.stride(3) == 1
        and all(size % VECTOR == 0 for size in sizes)
        and t.data_ptr() % bytes_per_vector == 0
    )


def run(
    x: Tensor, fu, fd, b, geometry: Geometry, tile: Tile, mode: int, states: Tensor | None
) -> Tensor:
    """Launch the kernel with a given tile."""
    n, channels, height, width = x.shape
    middle_w, middle_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    y = empty_like_format(x, [n, channels, out_h, out_w])
    if y.numel() == 0:
        return y
    offset_x, offset_y = geometry.offset or (0, 0)
    lead = offset_x % STATES_PER_BYTE
    uy, ux = upsampling_tables(fu, geometry, lead, tile, x.dtype, x.device)
    dx, dy = downsampling_tables(fd, geometry, lead, tile, x.dtype, x.device)
    blocks = -(-out_h // (tile.sm // geometry.down))
    strips, segments = -(-out_w // tile.valid), -(-blocks // STEPS)
    vector = VECTOR if _aligned(x) and _aligned(y) else 1
    strides = [s for t in (x, y) for s in (*(k // vector for k in t.stride()[:3]), t.stride(3))]
    left, _, top, _ = geometry.padding
    triton_kernel.filtered_lrelu_kernel[(n * channels * strips * segments,)](
        x, b, y, states, uy, ux, dx, dy, *strides,
        channels, height, width // vector, out_h, out_w // vector, middle_h, middle_w,
        0 if states is None else states.shape[2], 0 if states is None else states.shape[3] // 4,
        offset_x // STATES_PER_BYTE, offset_y,
        first_input(geometry.up, top), first_input(geometry.up, left + lead, VECTOR) // vector,
        strips, segments, STEPS, (middle_h - 1) // tile.sm,
        geometry.slope, 0.0 if geometry.clamp is None else geometry.clamp,
        **constants(geometry, tile, x.dtype, mode, b is not None, vector, len(uy), len(dx)),
        num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
    )  # fmt: skip
    return y


def constants(
    geometry: Geometry,
    tile: Tile,
    dtype,
    mode: int,
    has_bias: bool,
    vector: int,
    u_terms: int,
    d_terms: int,
) -> dict:
    """The compile-time arguments of the kernel."""
    rounding = getattr(tl, str(dtype).removeprefix("torch."))
    # The interpreter multiplies bfloat16 as if its bits were integers.
    operand = tl.float32 if knobs.runtime.interpret else rounding
    return dict(
        MODE=mode, HAS_BIAS=has_bias, HAS_CLAMP=geometry.clamp is not None,
        CONVEX=0 <= geometry.slope <= 1, UP=geometry.up,
        DOWN=geometry.down, U_TERMS=u_terms, D_TERMS=d_terms, IN_Y=tile.in_y, SM=tile.sm,
        IN_X=tile.in_x, MID=tile.mid, OUT=tile.out, V=tile.valid, VECTOR=vector, ROUND=rounding,
        OPERAND=operand, PRECISION=PRECISION,
    )  # fmt: skip


__all__ = ["Terms", "forward", "forward_with_states", "linear", "missing", "states_shape"]
