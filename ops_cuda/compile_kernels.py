"""Compile all GPU kernels without a GPU: `python -m ops_cuda.compile_kernels`.

Runs the operators' host code on small CPU tensors with the shapes of real layers, records the
kernel launches and compiles them for each architecture. Reads registers, shared memory and spills
from the machine code and writes the table in docs/KERNELS.md.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ops_cuda.bias_act import ACTIVATIONS
from ops_cuda.bias_act import triton_path as bias_act_path
from ops_cuda.filtered_lrelu import triton_path as filtered_lrelu_path
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.upfirdn2d import triton_path as upfirdn2d_path
from ops_cuda.upfirdn2d.reference import Resampling

ARCHITECTURES = (80, 90, 100)
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "KERNELS.md"
#: Everything below this line of the document is generated.
MARKER = "<!-- written by make kernels -->"
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
}
SHORT = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
#: Layers of StyleGAN3 at 256² and 1024²: up, down, radial, padding, input size. The number of
#: channels does not affect compilation; sizes only through their alignment.
LAYERS = {
    "T, up 2": (2, 2, False, (9, 8, 9, 8), 150),
    "T, up 4": (4, 2, False, (-6, -9, -6, -9), 86),
    "R, up 2": (2, 2, True, (11, 10, 11, 10), 148),
    "R, up 4": (4, 2, True, (-2, -5, -2, -5), 84),
}


@dataclass(frozen=True)
class Launch:
    """A recorded kernel launch: the kernel, its arguments and launch options."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


@dataclass(frozen=True)
class Resources:
    """Resources of a compiled kernel: per thread (registers, spills), per program (shared)."""

    registers: int
    spills: int  # instructions that store to or load from local memory
    shared: int  # bytes
    matrix: int  # tensor core instructions

    def __str__(self) -> str:
        spills = f", **{self.spills} spills**" if self.spills else ""
        return f"{self.registers} / {self.shared}{spills}"


class _Recorder:
    """Stand-in for a kernel that records launches instead of running them."""

    def __init__(self, kernel, launches: list[Launch]):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return self._launch

    def _launch(self, *arguments, **named):
        names = self.kernel.arg_names
        options = {key: value for key, value in named.items() if key not in names}
        constants = {key: value for key, value in named.items() if key in names}
        self.launches.append(
            Launch(self.kernel, {**dict(zip(names, arguments, strict=False)), **constants}, options)
        )


@contextmanager
def recorded(module: ModuleType, name: str) -> Iterator[list[Launch]]:
    """Record the launches of kernel `module.name` within the block instead of running them."""
    launches: list[Launch] = []
    kernel = getattr(module, name)
    setattr(module, name, _Recorder(kernel, launches))
    try:
        yield launches
    finally:
        setattr(module, name, kernel)


def _source(launch: Launch) -> ASTSource:
    """Return the source with the specialisations of a real launch: 1, None, multiples of 16."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        specialise = not parameter.do_not_specialize
        is_one = specialise and isinstance(value, int) and value == 1
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name], constants[(i,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32"
        aligned = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if specialise and not isinstance(value, float) and aligned % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def compiles(launch: Launch, target: GPUTarget) -> int:
    """Compile for a GPU whose machine code `compiled` cannot read; return its size in bytes."""
    arguments = dict(launch.arguments)
    if target.backend == "hip" and "PRECISION" in arguments:
        arguments["PRECISION"] = "ieee"  # as `triton_path` has it there
    launch = dataclasses.replace(launch, arguments=arguments)
    asm = triton.compile(_source(launch), target=target, options=launch.options).asm
    return len(asm["hsaco" if target.backend == "hip" else "cubin"])


def compiled(launch: Launch, architecture: int) -> Resources:
    """Compile for `sm_<architecture>` and return the resources found in the machine code."""
    target = GPUTarget("cuda", architecture, 32)
    result = triton.compile(_source(launch), target=target, options=launch.options)
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers = re.search(r"REG:(\d+)", usage)
    assert registers, f"{tool} reported no register count"
    return Resources(
        int(registers[1]),
        len(re.findall(r"\b(?:STL|LDL)\b", code)),
        result.metadata.shared,
        len(re.findall(r"\b(?:HMMA|HGMMA|UTCHMMA|UTCQMMA)\b", code)),
    )


def filtered_lrelu_launches(layer: str, dtype: torch.dtype) -> dict[str, Launch]:
    """Launches of one of `LAYERS`: forward, forward with `scale`, with states, gradient."""
    up, down, radial, padding, size = LAYERS[layer]
    fu, fd = torch.rand(6 * up), torch.rand(6 * down)
    if radial:
        terms = [torch.rand(6 * down).outer(torch.rand(6 * down)) for _ in range(3)]
        fd = torch.stack(terms).sum(0)
    geometry = Geometry(up, down, padding, 2**0.5, 0.2, 256.0, False)
    x, b = torch.zeros([1, 2, size, size], dtype=dtype), torch.zeros(2)
    with recorded(filtered_lrelu_path.triton_kernel, "filtered_lrelu_kernel") as launches:
        filtered_lrelu_path.forward(x, fu, fd, b, geometry)
        filtered_lrelu_path.forward(x, fu, fd, b, geometry, scale=torch.ones([1, 2], dtype=dtype))
        y, states = filtered_lrelu_path.forward_with_states(x, fu, fd, b, geometry)
        back = geometry.transposed(x.shape, fu, fd)
        filtered_lrelu_path.linear(y, fd, fu, states, back)
    return dict(zip(("forward", "scaled", "with states", "gradient"), launches, strict=True))


def upfirdn2d_launches(up: int, down: int, taps: int, separable: bool, dtype) -> dict[str, Launch]:
    """Launches for contiguous and channels-last inputs, as in discriminators and augmentation."""
    f = torch.rand(taps) if separable else torch.rand(taps, taps)
    spec = Resampling((up, up), (down, down), (taps // 2,) * 4, False, 1.0)
    found: dict[str, Launch] = {}
    for name, memory_format in [
        ("contiguous", torch.contiguous_format),
        ("channels-last", torch.channels_last),
    ]:
        x = torch.zeros([1, 16, 64, 64], dtype=dtype).contiguous(memory_format=memory_format)
        with recorded(upfirdn2d_path, "upfirdn2d_kernel") as launches:
            upfirdn2d_path.run(x, f, spec)
        found |= {f"{name} {i}" if separable else name: each for i, each in enumerate(launches)}
    return found


def bias_act_launches(act: str, dtype: torch.dtype) -> dict[str, Launch]:
    """Launches of the forward pass and of both derivatives."""
    x, b = torch.zeros([1, 16, 64, 64], dtype=dtype), torch.zeros(16)
    settings = (1, act, 0.2, 2**0.5, 256.0)
    with recorded(bias_act_path, "bias_act_kernel") as launches:
        bias_act_path.forward(x, b, *settings)
        bias_act_path.gradient(x, x, b, *settings, 1)
        bias_act_path.gradient(x, x, b, *settings, 2)
    return dict(zip(("values", "first", "second"), launches, strict=True))


def configurations() -> dict[str, Callable[[torch.dtype], dict[str, Launch]]]:
    """Return all configurations in use: name → function from dtype to launches."""
    found: dict[str, Callable] = {
        f"filtered_lrelu, {layer}": partial(filtered_lrelu_launches, layer) for layer in LAYERS
    }
    for up, down, taps, separable in [
        (1, 2, 4, False),
        (2, 1, 4, False),
        (1, 1, 4, False),
        (2, 1, 12, True),
        (1, 2, 12, True),
    ]:
        kind = f"{taps} taps" if separable else f"{taps}×{taps}"
        name = f"upfirdn2d, up {up}, down {down}, {kind}"
        found[name] = partial(upfirdn2d_launches, up, down, taps, separable)
    found |= {f"bias_act, {act}": partial(bias_act_launches, act) for act in ACTIVATIONS}
    return found


def table() -> tuple[list[str], int]:
    """Return the rows of the table and the number of kernels that spill. Prints each row."""
    rows, spilling = [], 0
    for name, launches in configurations().items():
        for dtype in SHORT:
            for part, launch in launches(dtype).items():
                results = [compiled(launch, architecture) for architecture in ARCHITECTURES]
                spilling += sum(result.spills > 0 for result in results)
                cells = [name, part, SHORT[dtype], *map(str, results)]
                rows.append("| " + " | ".join(cells) + " |")
                print(rows[-1], flush=True)
    return rows, spilling


def main() -> int:
    """Compile all kernels and write the document. Returns exit status 1 if any kernel spills."""
    columns = ["kernel", "part", "dtype", *(f"sm_{each}" for each in ARCHITECTURES)]
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    print("\n".join(head))
    rows, spilling = table()
    verdict = f"{spilling} of them spill." if spilling else "No spills."
    summary = (
        f"Triton {triton.__version__}; {len(rows) * len(ARCHITECTURES)} kernels compiled. {verdict}"
    )
    prose = DOCUMENT.read_text().split(MARKER)[0]
    DOCUMENT.write_text("\n".join([prose + MARKER, "", summary, "", *head, *rows, ""]))
    print(f"{DOCUMENT}: {summary}")
    return int(spilling > 0)


if __name__ == "__main__":
    sys.exit(main())
