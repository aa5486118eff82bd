"""Convolutions in less precision, for previews."""

from __future__ import annotations

import torch
from torch import nn

from sg3.networks.stylegan3 import SynthesisLayer

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def set_conv_precision(G: nn.Module, precision: str) -> None:
    """Let the convolutions of a StyleGAN3 compute in `fp32` (the default) or `bf16`.

    Scaling, filters and activations stay in float32. bf16 changes a picture by 0.5 to 1 % (root
    mean square; single pixels by up to 3 %). It is quicker where the processor has instructions
    for it (AVX512-BF16, AMX, GPUs), and several times slower elsewhere. Raises ValueError for
    another precision or network.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected {' or '.join(PRECISIONS)}")
    layers = [module for module in G.modules() if isinstance(module, SynthesisLayer)]
    if not layers and precision != "fp32":
        raise ValueError(
            "precision: got bf16 for a StyleGAN2, expected fp32; only StyleGAN3 has it"
        )
    for layer in layers:
        layer.conv_dtype = PRECISIONS[precision]


def has_bf16_instructions(device: torch.device) -> bool:
    """True if bf16 convolutions are quicker than those of float32 on `device`."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:  # torch says so in another way now: no warning then
        return True
