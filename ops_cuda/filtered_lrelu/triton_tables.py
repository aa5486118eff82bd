"""Tile sizes and banded matrices of the fused GPU kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from ops_cuda.filtered_lrelu.packed_states import STATES_PER_BYTE, STATES_PER_WORD
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.planes import decomposed
from ops_cuda.tensor_cache import TensorCache

#: Singular values of a 2-D filter below this fraction of the largest are dropped.
SMALLEST_TERM = 5e-6
MAX_TERMS = 3
#: (down, bytes per element) → `sm`, `mid`, `valid` of a tile, warps for separable filters, warps
#: for others. These need the fewest instructions per output among the tiles that compile without
#: spills (docs/LOG.md). Not timed yet; benchmarks/kernels_gpu.py searches over tiles.
PREFERRED = {
    (1, 2): (32, 32, 16, 1, 2),
    (2, 2): (32, 64, 16, 1, 2),
    (4, 2): (64, 128, 20, 4, 4),
    (1, 4): (16, 32, 16, 2, 2),
    (2, 4): (16, 64, 16, 2, 2),
    (4, 4): (32, 64, 8, 4, 8),
}
#: Elements per load and store, where sizes and strides allow it.
VECTOR = 4


@dataclass(frozen=True)
class Tile:
    """Sizes of the matrix products (see `triton_kernel`), and the number of warps per tile.

    `in_y` input rows give `sm` upsampled rows. `in_x` input columns give `mid` upsampled columns
    and `out` output columns, of which `valid` are correct and stored.
    """

    in_y: int
    sm: int
    in_x: int
    mid: int
    out: int
    valid: int
    num_warps: int = 4


def _power_of_two(n: int, minimum: int = 16) -> int:
    # At least 16: the smallest matrices that Triton multiplies.
    return max(minimum, 1 << (n - 1).bit_length())


@dataclass(frozen=True)
class Shape:
    """Properties that determine the tile: factors, taps (x, y), terms, bytes per element."""

    up: int
    down: int
    u_taps: tuple[int, int]
    d_taps: tuple[int, int]
    u_terms: int
    d_terms: int
    element_size: int


def tiles(shape: Shape) -> list[Tile]:
    """Return all tiles that fit a shape, cheapest first."""
    (u_x, u_y), (d_x, d_y), down = shape.u_taps, shape.d_taps, shape.down
    # Tiles start at whole words of states, which costs up to STATES_PER_BYTE − 1 columns.
    step = max(STATES_PER_WORD // down, VECTOR)
    found = []
    for mid in (32, 64, 128):
        max_valid = (mid - d_x + 2 - STATES_PER_BYTE) // down // step * step
        for valid in range(step, max_valid + 1, step):
            fine = valid * down + d_x - 2 + STATES_PER_BYTE
            in_x = _power_of_two(-(-(fine + u_x - 1) // shape.up) + VECTOR - 1)
            for sm in (16, 32, 64):
                if d_y <= sm + 1 and sm % (4 * down) == 0:
                    in_y = _power_of_two(-(-(sm + u_y - 1) // shape.up))
                    found.append(Tile(in_y, sm, in_x, mid, _power_of_two(valid), valid))
    return sorted(found, key=lambda tile: (_cost(tile, down), -tile.valid))


def _cost(tile: Tile, down: int) -> float:
    """Return the number of tensor core multiplications per output element."""
    rows = tile.sm // down
    products = (
        tile.sm * tile.in_y * tile.in_x
        + tile.sm * tile.in_x * tile.mid
        + tile.sm * tile.mid * tile.out
        + 2 * max(rows, 16) * tile.sm * tile.out
    )
    return products / (rows * tile.valid)


def shared_memory(tile: Tile, shape: Shape) -> int:
    """Return an upper bound of the shared memory of a tile in bytes: matrices and one exchange."""
    upsampling = tile.sm * tile.in_y + tile.in_x * tile.mid
    downsampling = tile.mid * tile.out + 2 * tile.sm // shape.down * tile.sm
    parts = 1 if shape.element_size == 2 else 2  # tf32x3 splits a float32 into two parts
    elements = shape.u_terms * upsampling + shape.d_terms * downsampling
    return parts * elements * shape.element_size + 16384


@lru_cache
def best_tile(shape: Shape, available: int) -> Tile | None:
    """Return the tile to use with `available` bytes of shared memory; None if none fits."""
    found = [tile for tile in tiles(shape) if shared_memory(tile, shape) <= available]
    *sizes, separable, others = PREFERRED[shape.down, shape.element_size]
    preferred = [tile for tile in found if [tile.sm, tile.mid, tile.valid] == sizes]
    num_warps = separable if shape.u_terms == shape.d_terms == 1 else others
    return replace([*preferred, *found][0], num_warps=num_warps) if found else None


@dataclass(frozen=True)
class Terms:
    """A filter as a sum of separable terms: `x` `[terms, taps_x]`, `y` `[terms, taps_y]`."""

    x: np.ndarray
    y: np.ndarray

    def oriented(self, flip_filter: bool) -> Terms:
        """Return the taps for a correlation."""
        return self if flip_filter else Terms(self.x[:, ::-1], self.y[:, ::-1])


_terms_of, _tables_of = TensorCache(), TensorCache()


def terms(f: torch.Tensor | None) -> Terms:
    """Return `f` as a sum of separable filters, in float64; cached."""
    if f is None:
        return Terms(np.ones([1, 1]), np.ones([1, 1]))

    def compute() -> Terms:
        return Terms(*decomposed(f.detach().double().cpu().numpy(), SMALLEST_TERM))

    return _terms_of.get(f, (), compute)


def first_input(up: int, low: int, vector: int = 1) -> int:
    """Return the index of the first input sample at or after the origin of the upsampled grid.

    `low` is the padding before the image. The index is rounded down to a multiple of `vector`.
    """
    return -(low // up) // vector * vector


def upsampling_matrix(
    taps: np.ndarray, up: int, low: int, fine: int, inputs: int, vector: int = 1
) -> np.ndarray:
    """Return `[terms, fine, inputs]`, which maps the inputs of a tile to its upsampled samples."""
    i = first_input(up, low, vector) + np.arange(inputs)[None]
    return up * _taken(taps, i * up + low - np.arange(fine)[:, None])


def downsampling_matrix(taps: np.ndarray, down: int, outputs: int, fine: int, shift: int = 0):
    """Return `[terms, outputs, fine]`, which maps fine samples from index `shift` on to outputs."""
    return _taken(taps, np.arange(fine)[None] + shift - np.arange(outputs)[:, None] * down)


def _taken(taps: np.ndarray, k: np.ndarray) -> np.ndarray:
    inside = (k >= 0) & (k < taps.shape[1])
    return taps[:, np.where(inside, k, 0)] * inside


Tables = tuple[torch.Tensor, torch.Tensor]


def upsampling_tables(
    f, geometry: Geometry, lead: int, tile: Tile, dtype: torch.dtype, device: torch.device
) -> Tables:
    """Return `Uy` `[terms, sm, in_y]` and `Ux` `[terms, in_x, mid]`; `Ux` includes the gain.

    Tiles start `lead` upsampled columns before their first output.
    """
    left, _, top, _ = geometry.padding
    left += lead
    up, flip, gain = geometry.up, geometry.flip_filter, geometry.gain

    def compute() -> Tables:
        taps = terms(f).oriented(flip)
        uy = upsampling_matrix(taps.y, up, top, tile.sm, tile.in_y)
        ux = gain * upsampling_matrix(taps.x, up, left, tile.mid, tile.in_x, VECTOR)
        return _uploaded(uy, dtype, device), _uploaded(ux.transpose(0, 2, 1), dtype, device)

    key = ("up", up, left, top, flip, gain, tile, dtype, device)
    return _tables_of.get(f, key, compute)


def downsampling_tables(
    f, geometry: Geometry, lead: int, tile: Tile, dtype: torch.dtype, device: torch.device
) -> Tables:
    """Return `Dx` `[terms, mid, out]` and `Dy` `[terms, 2, sm // down, sm]` (this, next step)."""
    down, flip = geometry.down, geometry.flip_filter

    def compute() -> Tables:
        taps = terms(f).oriented(flip)
        dx = downsampling_matrix(taps.x, down, tile.out, tile.mid, -lead)
        steps = [
            downsampling_matrix(taps.y, down, tile.sm // down, tile.sm, shift)
            for shift in (0, tile.sm)
        ]
        dy = np.stack(steps, axis=1)
        return _uploaded(dx.transpose(0, 2, 1), dtype, device), _uploaded(dy, dtype, device)

    return _tables_of.get(f, ("down", down, flip, lead, tile, dtype, device), compute)


def _uploaded(matrix: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix)).to(dtype).to(device)
