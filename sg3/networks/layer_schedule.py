"""Cutoff, sampling rate, size and width of each StyleGAN3 layer (SG3 Sec. 3.2, REFERENCE.md §2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sg3.networks.sizes import ImageSize


@dataclass(frozen=True)
class LayerSpec:
    """Signal on one side of a layer. Frequencies in cycles per larger side of the image."""

    sampling_rate: float  # a whole number unless the larger side cannot be halved so often
    cutoff: float
    half_width: float  # of the transition band
    shape: ImageSize  # in pixels, with margins
    channels: int

    @property
    def size(self) -> int:
        """The larger side in pixels."""
        return self.shape.larger


@dataclass(frozen=True)
class LayerPlan:
    """One synthesis layer: its input and output signals and its role."""

    index: int
    source: LayerSpec
    target: LayerSpec
    is_torgb: bool
    is_critically_sampled: bool
    use_fp16: bool

    @property
    def name(self) -> str:
        shape = self.target.shape
        size = shape.height if shape.is_square else shape
        return f"L{self.index}_{size}_{self.target.channels}"


def plan_layers(
    img_resolution: int | Sequence[int],
    img_channels: int,
    channel_base: float,
    channel_max: int,
    num_layers: int,
    num_critical: int,
    first_cutoff: float,
    first_stopband: float,
    last_stopband_rel: float,
    margin_size: int,
    num_fp16_res: int,
) -> list[LayerPlan]:
    """Plans of layers 0..num_layers; the last is ToRGB. Raises ValueError if none is possible.

    An image that is not square has the schedule of the square around it, and in every layer the
    pixels that it covers there: a pixel is as wide as it is high. Sampling rates are the larger
    side, halved; for a power of two those are the powers of two of REFERENCE.md §2.2.
    """
    image = ImageSize.of(img_resolution)
    larger = image.larger
    unit = larger / 2 ** (larger.bit_length() - 1)  # rates are this times powers of two
    if num_critical >= num_layers or num_critical < 0:
        raise ValueError(
            f"num_critical: got {num_critical}, expected 0 to {num_layers - 1} "
            f"with num_layers={num_layers}"
        )
    last_cutoff = larger / 2
    last_stopband = last_cutoff * last_stopband_rel
    specs = []
    for i in range(num_layers + 1):
        exponent = min(i / (num_layers - num_critical), 1)
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** exponent
        stopband = first_stopband * (last_stopband / first_stopband) ** exponent
        rate = unit * 2 ** math.ceil(math.log2(min(2 * stopband, larger) / unit))
        with_margin = ImageSize(
            *(math.ceil(rate * n / larger) + 2 * margin_size for n in (image.height, image.width))
        )
        specs.append(
            LayerSpec(
                sampling_rate=int(rate) if rate.is_integer() else rate,
                cutoff=cutoff,
                half_width=max(stopband, rate / 2) - cutoff,
                shape=image if i >= num_layers - 1 else with_margin,
                channels=img_channels
                if i == num_layers
                else round(min((channel_base / 2) / cutoff, channel_max)),
            )
        )
    return [
        LayerPlan(
            index=i,
            source=specs[max(i - 1, 0)],
            target=spec,
            is_torgb=i == num_layers,
            is_critically_sampled=i >= num_layers - num_critical,
            use_fp16=spec.sampling_rate * 2**num_fp16_res > larger,
        )
        for i, spec in enumerate(specs)
    ]
