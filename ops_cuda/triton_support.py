"""Whether the Triton paths can be used here."""

from __future__ import annotations

import torch

try:
    from triton import knobs
except ImportError:  # not on Windows and macOS; `knobs` came with Triton 3.4
    knobs = None

LEAST_CAPABILITY = (8, 0)


def missing() -> str:
    """Why there is no Triton path here; empty if there is one, or its interpreter."""
    if knobs is None:
        return "Triton 3.4 or newer is not installed"
    if knobs.runtime.interpret:
        return ""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "there is no CUDA device"
    found = torch.cuda.get_device_capability()
    return "" if found >= LEAST_CAPABILITY else f"compute capability 8.0 is needed, this is {found}"
