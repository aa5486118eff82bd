"""Devices and how fast they are: published numbers of GPUs, measured ones of this CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Card:
    """Published numbers of a GPU: dense TFLOP/s of fp16 on tensor cores with fp32 sums, and of
    plain fp32; GB/s; GiB. `has_triton`: whether our kernels run (compute capability 8.0)."""

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float
    has_triton: bool = True


CARDS = {
    card.name: card
    for card in (
        Card("H200", 989, 67, 4800, 141),
        Card("H100", 989, 67, 3350, 80),
        Card("A100-80", 312, 19.5, 2039, 80),
        Card("A100-40", 312, 19.5, 1555, 40),
        Card("RTX4090", 165.2, 82.6, 1008, 24),
        Card("RTX3090", 71, 35.6, 936, 24),
        Card("V100", 125, 15.7, 900, 32, has_triton=False),
        Card("T4", 65, 8.1, 320, 16, has_triton=False),
    )
}
#: Shares of the published rates that convolutions, FIR filters and traffic are taken to reach:
#: assumed, not measured.
HALF_SHARE, SINGLE_SHARE, FIR_SHARE, BANDWIDTH_SHARE = 0.5, 0.7, 0.5, 0.8
LAUNCH_SECONDS = 15e-6  # of Python and the driver for each operation, while the GPU works
CPU_FIR_SHARE = 0.2  # of the convolution's rate (docs/PERFORMANCE.md)
CPU_LAUNCH_SECONDS = 10e-6
#: Of the rate of one convolution and one copy, what training steps reach: seconds then came
#: within 0.9 to 1.3 of those of four measured runs.
CPU_SHARE = 0.65
LEAST_CALLS, MEASURE_SECONDS = 5, 0.5


@dataclass(frozen=True)
class Rates:
    """What a device achieves: FLOP/s in half and single precision and in FIR filters, bytes/s,
    and seconds that each operation takes on top (`overlaps`: at the same time)."""

    half: float
    single: float
    fir: float
    bandwidth: float
    launch: float
    overlaps: bool

    @classmethod
    def of_card(cls, card: Card) -> Rates:
        """Published rates times the shares above."""
        return cls(
            card.half * 1e12 * HALF_SHARE,
            card.single * 1e12 * SINGLE_SHARE,
            card.single * 1e12 * FIR_SHARE,
            card.bandwidth * 1e9 * BANDWIDTH_SHARE,
            LAUNCH_SECONDS,
            overlaps=True,
        )

    @classmethod
    def measured(cls, device: torch.device) -> Rates:
        """Measured on `device` in a second or two: convolutions, and a copy."""
        on_gpu = device.type == "cuda"
        single = _convolution_rate(device, torch.float32)
        half = _convolution_rate(device, torch.float16) if on_gpu else single
        source = torch.zeros([64 << 20 if on_gpu else 16 << 20], device=device)
        target = torch.zeros_like(source)
        bandwidth = 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)
        if on_gpu:
            fir = single * FIR_SHARE / SINGLE_SHARE
            return cls(half, single, fir, bandwidth, LAUNCH_SECONDS, overlaps=True)
        single, bandwidth = single * CPU_SHARE, bandwidth * CPU_SHARE
        fir = single * CPU_FIR_SHARE
        return cls(single, single, fir, bandwidth, CPU_LAUNCH_SECONDS, overlaps=False)

    def total(self, device_seconds: float, operations: int) -> float:
        """Seconds of all operations together."""
        launches = operations * self.launch
        return max(device_seconds, launches) if self.overlaps else device_seconds + launches


def _convolution_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a 3×3 convolution."""
    batch, channels, size = (16, 256, 128) if device.type == "cuda" else (4, 64, 64)
    x = torch.randn([batch, channels, size, size], device=device, dtype=dtype)
    w = torch.randn([channels, channels, 3, 3], device=device, dtype=dtype)
    seconds = _seconds(lambda: torch.conv2d(x, w, padding=1), device)
    return 2 * w.numel() * batch * size**2 / seconds


def _seconds(function, device: torch.device) -> float:
    """Mean of as many calls as half a second allows, after one to warm up.

    On a CPU the process's own time counts, which other programs leave alone.
    """
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    function()
    calls, started = 0, clock()
    ends = time.perf_counter() + MEASURE_SECONDS
    while calls < LEAST_CALLS or time.perf_counter() < ends:
        function()
        calls += 1
        if on_gpu:
            torch.cuda.synchronize(device)
    seconds = (clock() - started) / calls
    return seconds if on_gpu else seconds / torch.get_num_threads()
