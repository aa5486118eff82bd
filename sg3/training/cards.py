"""Published numbers of GPUs, and the fractions of them that training reaches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Efficiency:
    """Fractions of a card's published rates.

    Attributes:
        half, single: convolutions.
        fir_half, fir_single: FIR filters, of the fp32 rate.
        bandwidth: memory traffic.
    """

    half: float
    single: float
    fir_half: float
    fir_single: float
    bandwidth: float


#: What the official implementation reaches, fitted to the 33 rows of its published table: −16 to
#: +7 % from the A100's seconds and −14 to +14 % from the V100's (`python -m benchmarks
#: official_cost`). The A100's, on the rates of the A6000, which was left out, are −11 and +6 % from
#: the two published figures. Our own kernels are assumed to reach the same.
A100_EFFICIENCY = Efficiency(0.36, 0.36, 0.39, 0.39, 0.46)
V100_EFFICIENCY = Efficiency(0.29, 0.95, 0.75, 0.045, 0.42)


@dataclass(frozen=True)
class Card:
    """Published numbers of a GPU.

    Attributes:
        name: short name.
        half: dense fp16 TFLOP/s of the tensor cores with fp32 accumulation.
        single: fp32 TFLOP/s without tensor cores.
        bandwidth: memory bandwidth in GB/s.
        memory: GiB.
        has_triton: whether our kernels run (compute capability 8.0 or later).
    """

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float
    has_triton: bool = True

    @property
    def efficiency(self) -> Efficiency:
        """Return that of the A100, or that of the V100 for cards without our kernels."""
        return A100_EFFICIENCY if self.has_triton else V100_EFFICIENCY


CARDS = {
    card.name: card
    for card in (
        Card("B200", 2250, 80, 8000, 180),
        Card("H200", 989, 67, 4800, 141),
        Card("H100", 989, 67, 3350, 80),
        Card("A100-80", 312, 19.5, 2039, 80),
        Card("A100-40", 312, 19.5, 1555, 40),
        Card("MI300X", 1307, 163.4, 5300, 192),
        Card("A6000", 154.8, 38.7, 768, 48),
        Card("L40S", 362, 91.6, 864, 48),
        Card("L4", 121, 30.3, 300, 24),
        Card("RTX5090", 209.5, 104.8, 1792, 32),
        Card("RTX4090", 165.2, 82.6, 1008, 24),
        Card("RTX3090", 71, 35.6, 936, 24),
        Card("V100", 125, 15.7, 900, 32, has_triton=False),
        Card("T4", 65, 8.1, 320, 16, has_triton=False),
    )
}
