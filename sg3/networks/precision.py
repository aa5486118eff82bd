"""Less precision: of convolutions for previews, of the finer layers on a GPU."""

from __future__ import annotations

import torch
from torch import nn

from sg3.networks.discriminator import DiscriminatorBlock
from sg3.networks.stylegan2 import SynthesisBlock
from sg3.networks.stylegan3 import SynthesisLayer

HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
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


def set_half_precision(network: nn.Module, precision: str) -> None:
    """What the layers of a generator or discriminator that may be coarse use on CUDA.

    `fp16` is the reference's; `bf16` has its range without its digits. Which layers these are is
    the networks' `num_fp16_res`. Raises ValueError for another precision.
    """
    if precision not in HALF_DTYPES:
        raise ValueError(f"precision: got {precision!r}, expected {' or '.join(HALF_DTYPES)}")
    for module in network.modules():
        if isinstance(module, (SynthesisLayer, SynthesisBlock, DiscriminatorBlock)):
            module.half_dtype = HALF_DTYPES[precision]


def has_bf16_instructions(device: torch.device) -> bool:
    """True if bf16 convolutions are quicker than those of float32 on `device`."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:  # torch says so in another way now: no warning then
        return True
