"""Helpers of the fast paths: separable decomposition of filters, and threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from ops_cuda.tensor_cache import TensorCache


def separable_terms(
    f: torch.Tensor | None, flip_filter: bool, gain: float = 1, smallest: float = 1e-7
) -> tuple[np.ndarray, np.ndarray]:
    """Decompose `f` into a sum of separable filters, as taps of a correlation.

    Args:
        f: filter `[taps]`, `[taps_y, taps_x]` or None (identity).
        flip_filter: False: the filter is to be convolved, so its taps are reversed.
        gain: overall gain.
        smallest: singular values below this fraction of the largest are dropped.

    Returns:
        float64 `[terms, taps_x]` and `[terms, taps_y]`. The filter is the sum over terms of the
        outer products of y and x. The arrays are cached: do not write to them.
    """
    if f is None:
        f = torch.ones(1)
    taps = _on_host(f)
    return _terms(taps.tobytes(), taps.shape, flip_filter, gain, smallest)


_copies = TensorCache()


def _on_host(f: torch.Tensor) -> np.ndarray:
    """Return the taps of a filter as float64."""
    if f.device.type == "cpu":
        return f.detach().numpy().astype(np.float64)
    return _copies.get(f, (), lambda: f.detach().cpu().numpy().astype(np.float64))


def decomposed(f: np.ndarray, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """Decompose a filter into separable terms by SVD: `[terms, taps_x]` and `[terms, taps_y]`."""
    if f.ndim == 1:
        return f[None], f[None]
    u, sigma, v = np.linalg.svd(f, full_matrices=False)
    keep = max(int((sigma > smallest * sigma[0]).sum()), 1)
    root = np.sqrt(sigma[:keep, None])
    return v[:keep] * root, u[:, :keep].T * root


@lru_cache(maxsize=256)
def _terms(taps: bytes, shape: tuple[int, ...], flip_filter: bool, gain: float, smallest: float):
    x, y = decomposed(np.frombuffer(taps, np.float64).reshape(shape), smallest)
    # A correlation with reversed taps is a convolution.
    step = 1 if flip_filter else -1
    # Each axis takes the root of the gain; a negative sign goes to one axis only.
    root, sign = np.sqrt(abs(gain)), np.sign(gain)
    return tuple(np.ascontiguousarray(t[:, ::step]) for t in (x * root * sign, y * root))


def in_parallel(kernel: Callable[..., None], count: int, arguments: tuple, parts: int) -> None:
    """Call `kernel(first, last, *arguments)` on a partition of `range(count)`, in threads.

    Args:
        kernel: must release the GIL.
        count: number of work items.
        arguments: further arguments of every call.
        parts: maximum number of pieces; never more than torch uses threads.
    """
    parts = min(torch.get_num_threads(), count, parts)
    if parts <= 1:
        kernel(0, count, *arguments)
        return
    bounds = [count * i // parts for i in range(parts + 1)]
    jobs = [
        _pool(parts).submit(kernel, first, last, *arguments)
        for first, last in list(pairwise(bounds))[1:]
    ]
    # The calling thread works on the first part instead of waiting.
    kernel(bounds[0], bounds[1], *arguments)
    for job in jobs:
        job.result()


@lru_cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads - 1, thread_name_prefix="ops_cuda")
