"""A change of a weight: all of it, or two thin factors whose product it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from sg3.errors import UserError

#: Numbers of one tensor: seven times the largest layer of a StyleGAN3-R at 1024 pixels. Two thin
#: factors in a small file could otherwise ask for any amount of memory.
MAX_NUMBERS = 2**26
FP16_MAX = 65504


@dataclass(frozen=True, eq=False)
class LowRank:
    """`left` [O, r] times `right` [r, N / O], a tensor of `shape` [O, ...] with N numbers.

    Raises UserError where these do not fit each other.
    """

    left: torch.Tensor
    right: torch.Tensor
    shape: tuple[int, ...]

    def __post_init__(self):
        numbers = math.prod(self.shape)
        if len(self.shape) < 2 or min(self.shape) < 1 or numbers > MAX_NUMBERS:
            raise UserError(f"factors of shape {str(list(self.shape))[:60]}, unlike any weight's")
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
        return self.left.shape[1]


Change: TypeAlias = "torch.Tensor | LowRank"


def dense(change: Change) -> torch.Tensor:
    """All of it, float64, of its weight's shape."""
    if isinstance(change, LowRank):
        return (change.left.double() @ change.right.double()).reshape(change.shape)
    return change.double()


def stored_parts(change: Change) -> list[torch.Tensor]:
    """The tensors that a file keeps of it."""
    return [change.left, change.right] if isinstance(change, LowRank) else [change]


def compress(change: torch.Tensor, rank: int | None, dtype: torch.dtype) -> Change:
    """`change` rounded to `dtype`; as its best factors of `rank` where these are fewer numbers.

    A kernel [O, I, k, k] is taken as a matrix [O, I·k²]. The factors are those of the singular
    value decomposition (Eckart and Young 1936), each with the root of the singular values, so
    that neither leaves the range of half precision.
    """
    if rank is None or change.ndim < 2 or not _saves(rank, change.shape) or not change.any():
        return _rounded(change, dtype)
    matrix = change.double().reshape(len(change), -1)
    wide = matrix.shape[0] <= matrix.shape[1]
    # Eigenvectors of the smaller Gram matrix: a kernel is far wider than high, and a full
    # decomposition of a large generator would take minutes.
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    # Below this the eigenvalues are rounding errors: the change has a smaller rank.
    keep = squares > squares[-1] * 1e-14
    keep[:-rank] = False
    vectors, root = vectors[:, keep], squares[keep].pow(0.25)
    if wide:
        left, right = vectors * root, (vectors / root).T @ matrix
    else:
        left, right = matrix @ (vectors / root), (vectors * root).T
    return LowRank(_rounded(left, dtype), _rounded(right, dtype), tuple(change.shape))


def weighted_sum(parts: Sequence[tuple[Change, float]], rank: int | None) -> Change:
    """Σ strength · change, in the widest type of the parts; factors stay factors where they can.

    Raises UserError for parts of different shapes.
    """
    dtype = max((t.dtype for part, _ in parts for t in stored_parts(part)), key=_width)
    shapes = {tuple(part.shape) for part, _ in parts}
    if len(shapes) > 1:
        raise UserError(f"deltas: shapes {' and '.join(map(str, sorted(shapes)))} do not add up")
    factors = [(part, strength) for part, strength in parts if isinstance(part, LowRank)]
    ranks = sum(part.rank for part, _ in factors)
    if rank is None and len(factors) == len(parts) and _saves(ranks, *shapes):
        left = torch.cat([part.left.double() * strength for part, strength in factors], dim=1)
        right = torch.cat([part.right.double() for part, _ in factors])
        return LowRank(_rounded(left, dtype), _rounded(right, dtype), *shapes)
    return compress(sum(dense(part) * strength for part, strength in parts), rank, dtype)


def _saves(rank: int, shape: Sequence[int]) -> bool:
    rows, columns = shape[0], math.prod(shape[1:])
    return rank * (rows + columns) < rows * columns


def _width(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def _rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.float16 and tensor.abs().max() > FP16_MAX:
        dtype = torch.float32
    return tensor.to(dtype).contiguous()
