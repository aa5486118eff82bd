"""Cutoffs, sampling rates and sizes of StyleGAN3 layers (SG3 Sec. 3.2, REFERENCE.md §2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sg3.networks.sizes import ImageSize


@dataclass(frozen=True)
class LayerSpec:
    """Signal at the input or output of a layer. Frequencies in cycles per larger side."""

    sampling_rate: float  # an integer, unless the larger side is odd after halvings
    cutoff: float
    half_width: float  # of the transition band
    shape: ImageSize  # in pixels, including margins
    channels: int

    @property
    def size(self) -> int:
        """Larger side in pixels."""
        return self.shape.larger


@dataclass(frozen=True)
class LayerPlan:
    """Plan of a synthesis layer: input and output signals, and role."""

    index: int
    source: LayerSpec
    target: LayerSpec
    is_torgb: bool
    is_critically_sampled: bool
    use_fp16: bool

    @property
    def name(self) -> str:
        """Name of the module and of its tensors: `L{index}_{size}_{channels}`."""
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
    """Plan layers 0..num_layers; the last one is ToRGB.

    A non-square image gets the schedule of its bounding square, cropped in every layer, so that
    pixels stay square. Sampling rates are the larger side divided by powers of two; if that side
    is a power of two, they are those of REFERENCE.md §2.2.

    Args:
        img_resolution: side in pixels, or (height, width).
        img_channels: channels of the image.
        channel_base: channels of a layer are `channel_base / 2 / cutoff` …
        channel_max: … but at most this.
        num_layers: number of layers, without input and ToRGB.
        num_critical: number of critically sampled layers at the end.
        first_cutoff: cutoff frequency of the first layer.
        first_stopband: stopband frequency of the first layer.
        last_stopband_rel: stopband of the last layer, relative to its cutoff.
        margin_size: pixels around the image on each side, which keep border effects out of it.
        num_fp16_res: number of highest resolutions in half precision.

    Raises:
        ValueError: `num_critical` is negative or not below `num_layers`.
    """
    image = ImageSize.of(img_resolution)
    larger = image.larger
    unit = larger / 2 ** (larger.bit_length() - 1)  # rates are multiples of this by powers of two
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
        # Rounded up by powers of two: resampling factors are whole numbers.
        rate = unit * 2 ** math.ceil(math.log2(min(2 * stopband, larger) / unit))
        # Except in critically sampled layers, the cutoff lies half a transition band below half the
        # rate, so that aliases fall into the stopband (SG3 Sec. 3.2).
        with_margin = ImageSize(
            *(math.ceil(rate * n / larger) + 2 * margin_size for n in (image.height, image.width))
        )
        specs.append(
            LayerSpec(
                sampling_rate=int(rate) if rate.is_integer() else rate,
                cutoff=cutoff,
                half_width=max(stopband, rate / 2) - cutoff,
                # ToRGB is 1×1 and does not resample: the layer before it can crop the margin.
                shape=image if i >= num_layers - 1 else with_margin,
                channels=img_channels
                if i == num_layers
                else round(min((channel_base / 2) / cutoff, channel_max)),
            )
        )
    return [
        LayerPlan(
            index=i,
            # Layer 0 reads the Fourier features, whose signal is specified like its output.
            source=specs[max(i - 1, 0)],
            target=spec,
            is_torgb=i == num_layers,
            is_critically_sampled=i >= num_layers - num_critical,
            use_fp16=spec.sampling_rate * 2**num_fp16_res > larger,
        )
        for i, spec in enumerate(specs)
    ]
