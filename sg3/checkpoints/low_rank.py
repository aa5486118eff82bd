"""Changes of a weight tensor: dense, or as a product of two low-rank factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange

from sg3.devices import precise
from sg3.errors import UserError

#: Maximum number of values of a tensor: seven times the largest layer of a StyleGAN3-R at 1024
#: pixels. Otherwise two thin factors in a small file could request any amount of memory.
MAX_NUMBERS = 2**26
FP16_MAX = 65504


@dataclass(frozen=True, eq=False)
class LowRank:
    """The product of `left` `[O, r]` and `right` `[r, N/O]`, a tensor of `shape` `[O, …]`.

    Raises ValueError if the shapes do not match.
    """

    left: torch.Tensor
    right: torch.Tensor
    shape: tuple[int, ...]

    def __post_init__(self):
        numbers = math.prod(self.shape)
        if len(self.shape) < 2 or min(self.shape) < 1 or numbers > MAX_NUMBERS:
            raise UserError(f"low-rank change of invalid shape {str(list(self.shape))[:60]}")
        rows, columns = self.shape[0], numbers // self.shape[0]
        rank = self.left.shape[-1] if self.left.ndim == 2 else 0
        fits = self.left.shape == (rows, rank) and self.right.shape == (rank, columns)
        if not fits or not 1 <= rank <= min(rows, columns):
            raise UserError(
                f"factors {list(self.left.shape)} and {list(self.right.shape)}, expected "
                f"[{rows}, r] and [r, {columns}] with r from 1 to {min(rows, columns)}"
            )

    @property
    def rank(self) -> int:
        """The number of columns of `left`."""
        return self.left.shape[1]


Change: TypeAlias = "torch.Tensor | LowRank"


def dense(change: Change) -> torch.Tensor:
    """Return the change as a float64 tensor of the weight's shape."""
    if isinstance(change, LowRank):
        return (precise(change.left) @ precise(change.right)).reshape(change.shape)
    return precise(change)


def stored_parts(change: Change) -> list[torch.Tensor]:
    """Return the tensors that a file stores for a change."""
    return [change.left, change.right] if isinstance(change, LowRank) else [change]


def compress(change: torch.Tensor, rank: int | None, dtype: torch.dtype) -> Change:
    """Round `change` to `dtype`, as its best approximation of `rank` where that saves memory.

    A kernel `[O, I, k, k]` is treated as a matrix `[O, I·k²]`. The factors are those of the
    truncated singular value decomposition, which is optimal (Eckart and Young 1936). Each gets the
    square root of the singular values, so that neither overflows half precision.
    """
    if rank is None or change.ndim < 2 or not _saves(rank, change.shape) or not change.any():
        return _rounded(change, dtype)
    matrix = rearrange(precise(change), "o ... -> o (...)")
    wide = matrix.shape[0] <= matrix.shape[1]
    # Eigenvectors of the smaller Gram matrix: kernels are far wider than high, and a full SVD of a
    # large generator would take minutes.
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    # Smaller eigenvalues are rounding errors: the change has a lower rank.
    keep = squares > squares[-1] * 1e-14
    keep[:-rank] = False
    vectors, root = vectors[:, keep], squares[keep].pow(0.25)
    if wide:
        left, right = vectors * root, (vectors / root).T @ matrix
    else:
        left, right = matrix @ (vectors / root), (vectors * root).T
    return LowRank(_rounded(left, dtype), _rounded(right, dtype), tuple(change.shape))


def weighted_sum(parts: Sequence[tuple[Change, float]], rank: int | None) -> Change:
    """Return Σ strength · change in the widest dtype of the parts.

    Factors are concatenated where that saves memory (ranks add up), unless `rank` limits the rank.
    Raises ValueError for parts of different shapes.
    """
    dtype = max((t.dtype for part, _ in parts for t in stored_parts(part)), key=_width)
    shapes = {tuple(part.shape) for part, _ in parts}
    if len(shapes) > 1:
        found = " and ".join(map(str, sorted(shapes)))
        raise UserError(f"deltas: got shapes {found} of one tensor, expected equal shapes")
    factors = [(part, strength) for part, strength in parts if isinstance(part, LowRank)]
    ranks = sum(part.rank for part, _ in factors)
    if rank is None and len(factors) == len(parts) and _saves(ranks, *shapes):
        left = torch.cat([precise(part.left) * strength for part, strength in factors], dim=1)
        right = torch.cat([precise(part.right) for part, _ in factors])
        return LowRank(_rounded(left, dtype), _rounded(right, dtype), *shapes)
    terms = (dense(part) * strength for part, strength in parts)
    return compress(sum(terms, start=torch.zeros([], dtype=torch.float64)), rank, dtype)


def _saves(rank: int, shape: Sequence[int]) -> bool:
    rows, columns = shape[0], math.prod(shape[1:])
    return rank * (rows + columns) < rows * columns


def _width(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def _rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.float16 and tensor.abs().max() > FP16_MAX:
        dtype = torch.float32
    return tensor.to(dtype).contiguous()
