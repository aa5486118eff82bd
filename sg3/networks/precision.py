"""Reduced precision: bf16 convolutions for previews, half precision of fine layers on a GPU."""

from __future__ import annotations

import torch
from torch import nn

from sg3.networks.discriminator import DiscriminatorBlock
from sg3.networks.stylegan2 import SynthesisBlock
from sg3.networks.stylegan3 import SynthesisLayer

HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def set_conv_precision(G: nn.Module, precision: str) -> None:
    """Set the precision of the convolutions of a StyleGAN3: `fp32` (default) or `bf16`.

    Scaling, filters and activations stay in float32. bf16 changes an image by 0.5 to 1 % (root
    mean square; single pixels by up to 3 %). It is faster on processors with bf16 instructions
    (AVX512-BF16, AMX, GPUs) and several times slower on others. Raises ValueError for another
    precision, or for bf16 on a StyleGAN2.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected {' or '.join(PRECISIONS)}")
    layers = [module for module in G.modules() if isinstance(module, SynthesisLayer)]
    if not layers and precision != "fp32":
        raise ValueError(
            "precision: got bf16 for a StyleGAN2, expected fp32; only StyleGAN3 supports bf16"
        )
    for layer in layers:
        layer.conv_dtype = PRECISIONS[precision]


def set_half_precision(network: nn.Module, precision: str) -> None:
    """Set the dtype of half-precision layers on CUDA: `fp16` or `bf16`.

    `fp16` is what the official implementation uses; `bf16` has the range of float32 with fewer
    digits. `num_fp16_res` of the networks selects the layers. Raises ValueError for another
    precision.
    """
    if precision not in HALF_DTYPES:
        raise ValueError(f"precision: got {precision!r}, expected {' or '.join(HALF_DTYPES)}")
    for module in network.modules():
        if isinstance(module, (SynthesisLayer, SynthesisBlock, DiscriminatorBlock)):
            module.half_dtype = HALF_DTYPES[precision]


def has_bf16_instructions(device: torch.device) -> bool:
    """Whether bf16 convolutions are faster than float32 ones on `device`."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except (
        AttributeError
    ):  # renamed in another torch version: assume yes, which only loses a warning
        return True
