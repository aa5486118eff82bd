"""Opt-in setting of the C library's allocator: keep freed memory in the process.

glibc returns large freed blocks to the system, so that each large temporary costs a page fault per
4 KiB: on a CPU a large fraction of a training or steering step (docs/PERFORMANCE.md).

`keep_large_blocks` changes the allocator of the whole process, so the library never calls it. The
program `sg3` does; other programs can, once, at their start:

    from sg3.allocator import keep_large_blocks
    keep_large_blocks()
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_large_blocks() -> bool:
    """Make glibc reuse large freed blocks instead of returning them to the system.

    Affects all allocations of the process until it ends, including other libraries'. Steps on a
    CPU get faster; the process keeps its peak memory. `ops_cuda.recycled` notices it and stops
    recycling.

    Returns:
        True if it took effect; False with other C libraries, where it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # No block gets a mapping of its own, which would be returned when freed; and never trim.
    limits = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) == 1 for option, value in limits)
