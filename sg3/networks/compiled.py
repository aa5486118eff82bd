"""A generator's synthesis as compiled code: torch.compile, and CUDA graphs for small batches."""

from __future__ import annotations

import shutil

from torch import nn


def compile_synthesis(G: nn.Module, small_batches: bool = False, backend: str = "inductor") -> None:
    """Compile `G.synthesis` in place; weights, names and results stay what they are.

    The first call for every shape of `ws` takes about a minute. On CUDA `small_batches` also
    records each call as a CUDA graph, which pays where launching kernels takes longer than
    running them, at batch 1 to 4: a picture is then valid until the next call. Not yet run on a
    GPU; on a CPU nothing is gained (the operators are compiled already). Raises ValueError on a
    CPU without a C++ compiler, which `inductor` needs there.
    """
    device = next(G.parameters()).device
    if device.type == "cpu" and backend == "inductor" and not _has_cpp_compiler():
        raise ValueError("compile: needs a C++ compiler (g++ or clang++) on a CPU; leave it out")
    mode = "reduce-overhead" if small_batches and device.type == "cuda" else None
    G.synthesis.compile(backend=backend, mode=mode, dynamic=False)


def _has_cpp_compiler() -> bool:
    from torch._inductor import config

    wanted = config.cpp.cxx if isinstance(config.cpp.cxx, (list, tuple)) else [config.cpp.cxx]
    return any(name and shutil.which(name) for name in (*wanted, "g++", "clang++"))
