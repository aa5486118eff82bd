"""Resampling of one axis as a product with a banded matrix, in dense blocks.

A block of output columns depends on a few input columns only, so that each product is small and
dense, and the zeros of the upsampled grid are never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ops_cuda.planes import separable_terms

#: Singular values of a 2-D filter below this fraction of the largest are dropped; the radial
#: filters of configuration R then need three terms.
SMALLEST_TERM = {torch.float32: 5e-6, torch.float64: 1e-15}

#: Output columns per product. Larger blocks multiply more zeros, smaller ones cost more calls.
BLOCK = 64


@dataclass(frozen=True)
class Axis:
    """Resampling of one axis by one term of a filter: blocks of a banded matrix `[in, out]`.

    Output columns `columns` are input columns `rows` times `matrix`.
    """

    size: int
    blocks: tuple[tuple[slice, slice, torch.Tensor], ...]

    def along_rows(self, x: torch.Tensor, out: torch.Tensor, add: bool) -> None:
        """`[P, H, in]` → `[P, H, out]`."""
        x, out = x.flatten(0, 1), out.flatten(0, 1)
        for rows, columns, matrix in self.blocks:
            out[:, columns].addmm_(x[:, rows], matrix, beta=int(add))

    def down_columns(self, x: torch.Tensor, out: torch.Tensor, add: bool) -> None:
        """`[P, in, W]` → `[P, out, W]`."""
        for rows, columns, matrix in self.blocks:
            factor = matrix.t().expand(len(x), -1, -1)
            out[:, columns].baddbmm_(factor, x[:, rows], beta=int(add))


@lru_cache(maxsize=512)
def _axis(
    taps: bytes,
    up: int,
    down: int,
    pad: int,
    sizes: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    block: int,
) -> Axis:
    """Build the banded matrix: output o reads input i with tap `k = i·up + pad − o·down`."""
    f = np.frombuffer(taps, np.float64)
    size_in, size_out = sizes
    blocks = []
    for start in range(0, size_out, block):
        stop = min(start + block, size_out)
        first = min(max(0, -((pad - start * down) // up)), size_in)
        last = max(first, min(size_in, ((stop - 1) * down - pad + len(f) - 1) // up + 1))
        k = np.arange(first, last)[:, None] * up + pad - np.arange(start, stop) * down
        inside = (k >= 0) & (k < len(f))
        matrix = (
            torch.from_numpy(np.where(inside, f[np.where(inside, k, 0)], 0)).to(dtype).to(device)
        )
        blocks.append((slice(first, last), slice(start, stop), matrix))
    return Axis(size_out, tuple(blocks))


def axes(
    f: torch.Tensor | None,
    flip: bool,
    gain: float,
    up: int,
    down: int,
    pads: tuple[int, int],
    sizes_x: tuple[int, int],
    sizes_y: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    block: int = BLOCK,
) -> list[tuple[Axis, Axis]]:
    """Return for each separable term of the filter `f` its axes (x, y).

    Args:
        f: filter `[taps]`, `[taps_y, taps_x]` or None (identity).
        flip: False convolves, True correlates.
        gain: overall gain.
        up, down: factors.
        pads: zeros (left, top), relative to the upsampled image.
        sizes_x, sizes_y: (input, output) size of an axis.
        dtype, device: of the matrices.
        block: output columns per product.
    """
    smallest, place = SMALLEST_TERM.get(dtype, SMALLEST_TERM[torch.float32]), torch.device(device)
    return [
        (
            _axis(x.tobytes(), up, down, pads[0], sizes_x, dtype, place, block),
            _axis(y.tobytes(), up, down, pads[1], sizes_y, dtype, place, block),
        )
        for x, y in zip(*separable_terms(f, flip, gain, smallest), strict=True)
    ]
