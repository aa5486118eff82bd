"""Compiled synthesis: `torch.compile`, and CUDA graphs for small batches."""

from __future__ import annotations

import shutil

from torch import nn


def compile_synthesis(G: nn.Module, small_batches: bool = False, backend: str = "inductor") -> None:
    """Compile `G.synthesis` in place; weights, names and results do not change.

    The first call for each shape of `ws` takes about a minute. Not tested on a GPU yet; on a CPU
    it gains nothing, since the operators are compiled already.

    Args:
        G: a generator.
        small_batches: on CUDA, also record each call as a CUDA graph. It pays at batch 1 to 4,
            where launching kernels takes longer than running them. An image is then only valid
            until the next call.
        backend: backend of `torch.compile`.

    Raises:
        ValueError: `inductor` on a CPU without a C++ compiler.
    """
    device = next(G.parameters()).device
    if device.type == "cpu" and backend == "inductor" and not _has_cpp_compiler():
        raise ValueError("compile: needs a C++ compiler (g++ or clang++) on a CPU; run without it")
    mode = "reduce-overhead" if small_batches and device.type == "cuda" else None
    G.get_submodule("synthesis").compile(backend=backend, mode=mode, dynamic=False)


def _has_cpp_compiler() -> bool:
    from torch._inductor import config

    wanted = config.cpp.cxx if isinstance(config.cpp.cxx, (list, tuple)) else [config.cpp.cxx]
    return any(name and shutil.which(name) for name in (*wanted, "g++", "clang++"))
