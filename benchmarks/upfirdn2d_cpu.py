"""Speed of `upfirdn2d` on a CPU, relative to memory bandwidth.

    python -m benchmarks upfirdn2d_cpu

There are two floors: `copy` copies as many bytes as a call reads and writes between existing
buffers; `new` reads the input and fills a new result, and so includes the time in which the system
allocates and clears pages. First checks that the path in use agrees with the reference
implementation. Writes out/bench/upfirdn2d_cpu.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks._results import write_results
from benchmarks.generator_cpu import timed
from ops_cuda import setup_filter
from ops_cuda.upfirdn2d import Resampling, operator, reference
from recipes.arguments import argument_parser

ROUNDS = 5
TOLERANCE = 1e-5
BINOMIAL, WAVELET = setup_filter([1, 3, 3, 1]), setup_filter(torch.linspace(-0.4, 0.9, 12).sin())
BLUR = Resampling((1, 1), (1, 1), (2, 2, 2, 2), False, 1.0)
DOWN = Resampling((1, 1), (2, 2), (1, 1, 1, 1), False, 1.0)
UP = Resampling((2, 2), (1, 1), (2, 1, 2, 1), True, 4.0)


@dataclass(frozen=True)
class Case:
    """A call: its purpose, shape of the input, filter, settings, memory format."""

    name: str
    shape: tuple[int, int, int, int]
    f: torch.Tensor
    spec: Resampling
    channels_last: bool = False


def cases() -> list[Case]:
    """Return the calls of discriminators (which are channels-last), RGB images and ADA."""
    found = []
    for size, channels, batches in ((64, 512, (1, 16)), (256, 128, (1, 4)), (1024, 32, (1,))):
        for n in batches:
            for name, spec in (("blur", BLUR), ("down", DOWN), ("up", UP)):
                side = size // 2 if name == "up" else size
                shape = (n, channels, side, side)
                found.append(Case(f"D-{size} {name}", shape, BINOMIAL, spec, True))
    for n in (1, 16):
        ada_up = Resampling((2, 2), (1, 1), (6, 5, 6, 5), False, 4.0)
        ada_down = Resampling((1, 1), (2, 2), (-1, -1, -1, -1), True, 1.0)
        found += [
            Case("RGB up", (n, 3, 128, 128), BINOMIAL, UP),
            Case("ADA up", (n, 3, 300, 300), WAVELET, ada_up),
            Case("ADA down", (n, 3, 524, 524), WAVELET, ada_down),
        ]
    along = Resampling((1, 1), (1, 1), (5, 6, 0, 0), True, 1.0)
    found.append(Case("one axis", (16, 3, 256, 256), WAVELET[None], along))
    found.append(Case("blur, planes", (4, 64, 256, 256), BINOMIAL, BLUR))
    return found


def disagreement(case: Case, run: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return the largest relative difference to the reference implementation for one image."""
    x = _input(case, 1)
    expected = reference.upfirdn2d_reference(x, case.f, case.spec)
    return float((run(x) - expected).abs().max() / expected.abs().max())


def _input(case: Case, n: int) -> torch.Tensor:
    x = torch.randn(n, *case.shape[1:])
    return x.contiguous(memory_format=torch.channels_last) if case.channels_last else x


def measure(case: Case, threads: int) -> dict:
    """Time both floors and the operator in turns; returns the best of the rounds."""
    path = operator.OPERATOR.path("cpu", torch.float32)

    def run(x: torch.Tensor) -> torch.Tensor:
        return operator.PATHS[path].run(x, case.f, case.spec)

    torch.set_num_threads(threads)
    error = disagreement(case, run)
    if not error < TOLERANCE:
        raise SystemExit(f"{case.name}: {path} differs from the reference by {error:.1e}")
    x = _input(case, case.shape[0])
    y = run(x)
    shape, elements = y.shape, (x.numel() + y.numel()) // 2
    del y
    source, target = torch.zeros(elements), torch.zeros(elements)
    calls = [
        lambda: target.copy_(source),
        lambda: (x.sum(), torch.empty(shape).zero_()),
        lambda: run(x),
    ]
    rounds = [[timed(call) for call in calls] for _ in range(ROUNDS)]
    copy, new, own = (min(times) for times in zip(*rounds, strict=True))
    return {
        "case": case.name,
        "shape": list(case.shape),
        "threads": threads,
        "path": path,
        "copy_ms": copy[0] * 1e3,
        "new_ms": new[0] * 1e3,
        "ours_ms": own[0] * 1e3,
        "ratio_to_copy": own[0] / copy[0],
        "ratio_to_new": own[0] / new[0],
        "user_ms": own[1] * 1e3,
        "system_ms": own[2] * 1e3,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    argument_parser(__doc__).parse_args(arguments)
    rows = []
    print(
        "case          input                 threads  copy ms   new ms  ours ms  /copy   /new"
        "  user ms  system ms"
    )
    with torch.no_grad():
        for case in cases():
            for threads in (1, 2):
                row = measure(case, threads)
                rows.append(row)
                print(
                    f"{case.name:13s} {'x'.join(map(str, case.shape)):22s} {threads:6d} "
                    f"{row['copy_ms']:8.2f} {row['new_ms']:8.2f} {row['ours_ms']:8.2f} "
                    f"{row['ratio_to_copy']:6.1f} {row['ratio_to_new']:6.1f} "
                    f"{row['user_ms']:8.1f} {row['system_ms']:10.1f}",
                    flush=True,
                )
    print(write_results("upfirdn2d_cpu", {"rows": rows}))


if __name__ == "__main__":
    main()
