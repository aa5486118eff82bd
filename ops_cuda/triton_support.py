"""Availability of the Triton paths."""

from __future__ import annotations

import torch

try:
    from triton import knobs
except ImportError:  # Triton has no wheels for Windows and macOS; `knobs` came with 3.4
    knobs = None

MIN_CAPABILITY = (8, 0)


def missing() -> str:
    """Return why the Triton paths are unavailable, or "" if they (or the interpreter) can run."""
    if knobs is None:
        return "Triton 3.4 or newer is not installed"
    if knobs.runtime.interpret:
        return ""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "no CUDA device found"
    found = torch.cuda.get_device_capability()
    return "" if found >= MIN_CAPABILITY else f"needs compute capability 8.0, found {found}"
