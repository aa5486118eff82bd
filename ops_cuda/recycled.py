"""Recycled memory for large CPU results.

glibc returns large freed blocks to the system, and touching the next one costs a page fault per
4 KiB, more than the values written to it. This module keeps freed results of the operators for
later ones. It only reads statistics of the allocator and changes no setting of the process;
`sg3.allocator.keep_large_blocks` does, for programs that want it.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property

import torch

#: Smaller results come from torch: the C library reuses those.
LARGE_BYTES = 8 << 20
#: Maximum size of all idle blocks; the oldest are released first.
IDLE_BYTES = 1 << 30
#: A block is only reused for results that fill at least this fraction of it.
MIN_FILL = 0.5


class Recycler:
    """Pool of large blocks; a block returns when the last tensor that uses it is freed."""

    def __init__(self, idle_bytes: int = IDLE_BYTES) -> None:
        self.idle_bytes = idle_bytes
        self._idle: tuple[torch.Tensor, ...] = ()  # bytes, oldest first
        self._lock = threading.RLock()  # reentrant: garbage collection may call `_give_back` here

    @cached_property
    def needed(self) -> bool:
        """Whether recycling pays: the C library returns large freed blocks to the system."""
        return _is_mapped(64 << 20)  # glibc's dynamic threshold grows up to 32 MiB

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """`torch.empty` on the CPU, from recycled memory where that pays."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes < LARGE_BYTES or not self.needed:
            return torch.empty(shape, dtype=dtype)
        block = self._take(num_bytes)
        lease = block[:num_bytes].view(dtype).view(shape).numpy()
        # torch holds `lease`, and nothing else does, until the storage is freed.
        weakref.finalize(lease, self._give_back, block).atexit = False
        return torch.from_numpy(lease)

    def _take(self, num_bytes: int) -> torch.Tensor:
        """Return the smallest idle block that fits, or a new one."""
        with self._lock:
            fits = [b for b in self._idle if MIN_FILL * len(b) <= num_bytes <= len(b)]
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
    """Whether glibc maps a block of this size separately and unmaps it when it is freed.

    True if unknown (other C libraries). `mallinfo2` only reads statistics.
    """
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
