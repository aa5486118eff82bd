"""Memory of large results, used again: a fresh page costs more than the numbers written to it.

The C library returns large blocks to the system, and the next one costs a page fault per 4 KiB.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property

import torch

#: Smaller results the C library reuses by itself.
LARGE_BYTES = 8 << 20
#: How much may lie idle; what came back first goes first.
IDLE_BYTES = 1 << 30
#: A block is not taken for less than this share of it.
LEAST_SHARE = 0.5


class Recycler:
    """Hands out memory that comes back when the last tensor on it is gone."""

    def __init__(self, idle_bytes: int = IDLE_BYTES) -> None:
        self.idle_bytes = idle_bytes
        self._idle: tuple[torch.Tensor, ...] = ()  # bytes, oldest first
        self._lock = threading.RLock()  # a collection of garbage may come back in while we hold it

    @cached_property
    def needed(self) -> bool:
        """Whether a freed block costs page faults again: not where the C library keeps it."""
        return _is_mapped(64 << 20)  # the limit of what it keeps moves up to 32 MiB

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """As `torch.empty` on the CPU: the numbers are whatever was there."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes < LARGE_BYTES or not self.needed:
            return torch.empty(shape, dtype=dtype)
        block = self._take(num_bytes)
        lease = block[:num_bytes].view(dtype).view(shape).numpy()
        # torch holds `lease`, and that alone, until nothing uses the storage any more.
        weakref.finalize(lease, self._give_back, block).atexit = False
        return torch.from_numpy(lease)

    def _take(self, num_bytes: int) -> torch.Tensor:
        """The smallest idle block that fits, or a new one."""
        with self._lock:
            fits = [b for b in self._idle if LEAST_SHARE * len(b) <= num_bytes <= len(b)]
            if not fits:
                return torch.empty([num_bytes], dtype=torch.uint8)
            block = min(reversed(fits), key=len)
            self._idle = tuple(b for b in self._idle if b is not block)
            return block

    def _give_back(self, block: torch.Tensor) -> None:
        with self._lock:
            idle = [*self._idle, block]
            while sum(map(len, idle)) > self.idle_bytes:
                idle.pop(0)
            self._idle = tuple(idle)


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = (
        ("of_the_heap", ctypes.c_size_t * 3),
        ("num_mapped", ctypes.c_size_t),
        ("more", ctypes.c_size_t * 6),
    )


def _is_mapped(num_bytes: int) -> bool:
    """Whether glibc maps such a block for itself, to unmap it when it is freed; true elsewhere."""
    try:
        info = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError, TypeError):
        return True
    info.restype = _MallInfo
    before = info().num_mapped
    block = torch.empty(num_bytes, dtype=torch.uint8)
    return info().num_mapped > before and len(block) > 0


RECYCLER = Recycler()
empty = RECYCLER.empty
