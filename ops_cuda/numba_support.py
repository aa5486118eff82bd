"""Numba, where there is one: loops are compiled once and kept in the toolkit's cache folder."""

from __future__ import annotations

from collections.abc import Callable

from ops_cuda.cache import cache_dir

try:
    import numba
except ImportError:
    numba = None


def missing() -> str:
    """Why loops cannot be compiled here, or nothing."""
    return "" if numba is not None else "Numba is not installed"


def compiled(**options) -> Callable[[Callable], Callable]:
    """`numba.njit(nogil=True, cache=True, **options)` with our cache folder; without Numba nothing.

    `_nrt=False` leaves out reference counts: a slice then costs 1 ns instead of 20, and a row of
    a picture has fifty of them. It is for functions that allocate nothing.
    """

    def decorate(function: Callable) -> Callable:
        if numba is None:
            return function
        # Numba reads its setting when it decorates; others' functions keep theirs.
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = before or str(cache_dir() / "numba")
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate
