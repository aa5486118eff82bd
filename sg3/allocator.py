"""Keep freed memory in the process: large temporaries otherwise cost a page fault per 4 KiB."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_large_blocks() -> bool:
    """Ask glibc to reuse large blocks instead of returning them to the system.

    True where it took effect; other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    limits = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) == 1 for option, value in limits)
