"""Speed of StyleGAN3 on a CPU, relative to its convolutions.

    python -m benchmarks generator_cpu

The floor is the `conv2d` of every layer, forward, and for the gradient also its derivative with
respect to the input: the time that would remain if everything else were free. First checks that the
fast path agrees with the reference implementation. Writes out/bench/generator_cpu.json.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks._results import write_results
from recipes.arguments import argument_parser
from sg3.networks import build_network

ROUNDS = 3
TOLERANCE = 1e-4
TARGETS = {"forward": 1.5, "forward + backward": 1.7}
CONFIGURATIONS = {
    "T-256": dict(channel_base=16384, channel_max=512),
    "R-256": dict(channel_base=32768, channel_max=1024, conv_kernel=1, use_radial_filters=True),
}


def build(name: str) -> nn.Module:
    """Build a frozen 256×256 generator with random weights."""
    sizes = dict(z_dim=512, c_dim=0, w_dim=512, img_resolution=256, img_channels=3)
    torch.manual_seed(0)
    G = build_network("stylegan3", {**sizes, **CONFIGURATIONS[name]})
    return G.eval().requires_grad_(False)


def conv_floor(G: nn.Module, batch: int, backward: bool) -> Callable[[], None]:
    """Return a function that runs the convolution of every layer."""
    calls = []
    for name in G.synthesis.layer_names:
        layer, plan = getattr(G.synthesis, name), G.synthesis.plans[len(calls)]
        size = plan.source.size
        x = torch.randn(batch, layer.in_channels, size, size)
        x = x.requires_grad_(backward)
        calls.append((x, layer.weight, layer.conv_kernel - 1))

    def run() -> None:
        for x, weight, padding in calls:
            y = F.conv2d(x, weight, padding=padding)
            if backward:
                torch.autograd.grad(y, x, y)

    return run


def ours(G: nn.Module, batch: int, backward: bool) -> Callable[[], None]:
    """Return a function that runs the synthesis network, and its gradient with respect to ws."""
    ws = G.mapping(torch.randn(batch, G.z_dim)).requires_grad_(backward)

    def run() -> None:
        image = G.synthesis(ws)
        if backward:
            torch.autograd.grad(image, ws, image)

    return run


def disagreement(G: nn.Module) -> float:
    """Return the largest relative difference of the fast path to the reference implementation."""
    ws = G.mapping(torch.randn(1, G.z_dim))
    with torch.no_grad():
        fast = G.synthesis(ws)
        before = os.environ.get("SG3_OPS", "auto")
        os.environ["SG3_OPS"] = "reference"
        try:
            expected = G.synthesis(ws)
        finally:
            os.environ["SG3_OPS"] = before
    return float((fast - expected).abs().max() / expected.abs().max())


def timed(run: Callable[[], None]) -> tuple[float, float, float]:
    """Return wall-clock, user and system seconds of a call."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def compare(floor: Callable[[], None], own: Callable[[], None]) -> dict[str, float]:
    """Time both in turns after a warm-up; returns the best of the rounds."""
    floor(), own()
    pairs = [(timed(floor), timed(own)) for _ in range(ROUNDS)]
    best_floor, best_own = min(a for a, _ in pairs), min(b for _, b in pairs)
    return {
        "floor_sec": best_floor[0],
        "ours_sec": best_own[0],
        "ratio": best_own[0] / best_floor[0],
        "user_sec": best_own[1],
        "system_sec": best_own[2],
    }


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Silence messages that the profiler's libraries write to the file descriptor."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept), os.close(nothing)


def time_fractions(run: Callable[[], None]) -> dict[str, float]:
    """Return the fraction of time that a call spends in each kind of operator."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    profiler = torch.profiler.profile(activities=activities, acc_events=True)
    with silent_stderr(), profiler as profile:
        run()
    found = {"convolutions": 0.0, "filtered_lrelu": 0.0, "the rest": 0.0}
    for event in profile.key_averages():
        if "conv" in event.key or event.key == "aten::mm":  # 1×1 convolutions are matrix products
            kind = "convolutions"
        elif "filtered_lrelu" in event.key:
            kind = "filtered_lrelu"
        else:
            kind = "the rest"
        found[kind] += event.self_cpu_time_total
    total = sum(found.values())
    return {kind: value / total for kind, value in found.items()}


def measure(name: str, batch: int = 1) -> Iterator[dict]:
    """Yield the rows of the table for a configuration."""
    G = build(name)
    torch.set_num_threads(2)
    error = disagreement(G)
    if not error < TOLERANCE:
        raise SystemExit(f"{name}: the fast path differs from the reference by {error:.1e}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for what, target in TARGETS.items():
            backward = what != "forward"
            with torch.set_grad_enabled(backward):
                own = ours(G, batch, backward)
                found = compare(conv_floor(G, batch, backward), own)
                found["shares"] = time_fractions(own)
            yield dict(network=name, what=what, threads=threads, target=target, **found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    argument_parser(__doc__).parse_args(arguments)
    rows = []
    print(
        "network  what                threads  floor s  ours s  ratio  target  user s  system s  "
        "% convolutions/filtered_lrelu/rest"
    )
    for name in CONFIGURATIONS:
        for row in measure(name):
            rows.append(row)
            print(
                f"{row['network']:8s} {row['what']:19s} {row['threads']:7d} "
                f"{row['floor_sec']:8.2f} {row['ours_sec']:7.2f} {row['ratio']:6.2f} "
                f"{row['target']:7.1f} {row['user_sec']:7.2f} {row['system_sec']:9.2f}  "
                + "/".join(f"{100 * fraction:.0f}" for fraction in row["shares"].values()),
                flush=True,
            )
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    path = write_results("generator_cpu", {"rows": rows, "peak_gb": peak_gb})
    print(f"peak memory {peak_gb:.1f} GB; {path}")


if __name__ == "__main__":
    main()
