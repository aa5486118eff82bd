"""Memory of the official implementation, as a formula that was fitted to its published table."""

from __future__ import annotations

from typing import Any

from torch import nn

STATES_PER_BYTE = 4
FLOAT_BYTES = 4
#: Bytes per byte of networks and optimizers, of modulated weights (which it makes for each image),
#: of the slope states of its filtered leaky ReLU, and of images. Fitted to the 32 rows of StyleGAN3
#: in its published table: within 4 %, and within 5 % of each size if that is left out of the fit.
CONSTANT, WEIGHTS, STATES, IMAGES = 1.35, 3.27, 3.21, 21.8


def official_bytes(G: nn.Module, constant_bytes: int, images_bytes: int, count: int) -> float:
    """Return the peak bytes of a GPU that trains a StyleGAN3.

    Args:
        G: the generator.
        constant_bytes: of G, D and G_ema, and of Adam's moments.
        images_bytes: of the fp32 images of one pass.
        count: number of these images.
    """
    synthesis: Any = G.get_submodule("synthesis")
    weights = states = 0
    for plan in synthesis.plans:
        layer = synthesis.get_submodule(plan.name)
        weights += layer.weight.numel() * (2 if layer.use_fp16 else FLOAT_BYTES)
        grown = layer.conv_kernel - 1  # convolutions return all positions that they touch
        area = (plan.source.shape.height + grown) * (plan.source.shape.width + grown)
        states += layer.out_channels * area * layer.up_factor**2 // STATES_PER_BYTE
    of_passes = count * (WEIGHTS * weights + STATES * states) + IMAGES * images_bytes
    return CONSTANT * constant_bytes + of_passes
