"""Availability of the Triton paths."""

from __future__ import annotations

import os

import torch

try:
    from triton import knobs
except ImportError:  # Triton has no wheels for Windows and macOS; `knobs` came with 3.4
    knobs = None

MIN_CAPABILITY = (8, 0)
#: What compiles (`compile_kernels`) but was never run: used with SG3_OPS=triton only.
UNTRIED = "AMD's GPUs and compute capability 7.5"
UNTRIED_CAPABILITY = (7, 5)


def missing() -> str:
    """Return why the Triton paths are unavailable, or "" if they (or the interpreter) can run."""
    if knobs is None:
        return "Triton 3.4 or newer is not installed"
    if knobs.runtime.interpret:
        return ""
    if not torch.cuda.is_available():
        return "no CUDA device found"
    found = torch.cuda.get_device_capability()
    hip = torch.version.hip is not None
    if not hip and found >= MIN_CAPABILITY:
        return ""
    if hip or found >= UNTRIED_CAPABILITY:
        asked = os.environ.get("SG3_OPS") == "triton"
        return "" if asked else f"not tried on {UNTRIED}; SG3_OPS=triton tries it"
    return f"needs compute capability 8.0, found {found}"
