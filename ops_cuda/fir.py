"""FIR filters: setup, and arguments common to all resampling operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: `setup_filter` keeps 1-D filters separable from this number of taps on (REFERENCE.md §1.2).
SEPARABLE_MIN_TAPS = 8


def setup_filter(
    f: torch.Tensor | Sequence | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepare a FIR filter for `upfirdn2d` and `filtered_lrelu` (REFERENCE.md §1.2).

    Args:
        f: scalar, 1-D or 2-D list or tensor, or None (identity).
        device: device of the result.
        normalize: scale the taps to sum 1.
        flip_filter: reverse the taps.
        gain: sum of the normalized filter, as a 2-D filter.
        separable: keep a 1-D filter separable; None: from `SEPARABLE_MIN_TAPS` taps on.

    Returns:
        float32 `[taps]` if separable, else `[taps_y, taps_x]`.

    Raises:
        ValueError: `f` has more than two axes or no taps.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"f: got a filter of shape {tuple(f.shape)}, expected 0, 1 or 2 axes")
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_MIN_TAPS
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if separable and f.ndim != 1:
        raise ValueError(f"f: got a 2-D filter of shape {tuple(f.shape)} with separable=True")
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """Return the number of taps `(width, height)` of a filter; None counts as 1×1."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2):
        raise ValueError(f"f: got a filter of shape {tuple(f.shape)}, expected 1 or 2 axes")
    return int(f.shape[-1]), int(f.shape[0])


def as_pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """Return a factor as `(x, y)`; a single number applies to both axes."""
    x, y = (value, value) if isinstance(value, int) else (int(v) for v in value)
    if x < 1 or y < 1:
        raise ValueError(f"{name}: got {value}, expected factors of at least 1")
    return x, y


def as_padding(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Return padding as `(left, right, top, bottom)`; a pair is (x, y); negative values crop."""
    if isinstance(padding, int):
        padding = [padding]
    padding = [int(p) for p in padding]
    if len(padding) == 1:
        padding = padding * 4
    elif len(padding) == 2:
        x, y = padding
        padding = [x, x, y, y]
    if len(padding) != 4:
        raise ValueError(f"padding: got {len(padding)} numbers, expected 1, 2 or 4")
    left, right, top, bottom = padding
    return left, right, top, bottom


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    """Return the memory format of a result: channels-last if `x` is, else contiguous."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
