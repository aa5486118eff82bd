"""Numba, if installed: loops are compiled once and stored in the cache folder of the toolkit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ops_cuda.cache import cache_dir

numba: Any
try:
    import numba
except ImportError:
    numba = None


def missing() -> str:
    """Return why loops cannot be compiled on this machine, or "" if they can."""
    return "" if numba is not None else "Numba is not installed"


def compiled(**options) -> Callable[[Callable], Callable]:
    """Decorator: `numba.njit(nogil=True, cache=True, **options)` with the toolkit's cache folder.

    Without Numba the function is returned as it is. `_nrt=False` disables reference counting: a
    slice then costs 1 ns instead of 20, and one image row takes fifty. Only functions that
    allocate nothing may use it.
    """

    def decorate(function: Callable) -> Callable:
        if numba is None:
            return function
        # Numba reads this setting when it decorates. Restore it, so that functions of other
        # packages keep their cache folder.
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = before or str(cache_dir() / "numba")
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate
