"""Memory of the official implementation, as a formula that was fitted to its published table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sg3.training.config import TrainConfig

if TYPE_CHECKING:
    from sg3.training.plan import Parts

STATES_PER_BYTE = 4
FLOAT_BYTES = 4
#: Bytes per byte of networks and optimizers, of modulated weights (which it makes for each image),
#: of the slope states of its filtered leaky ReLU, and of images. Fitted to the 32 rows of StyleGAN3
#: in its published table: within 4 %, and within 5 % of each size if that is left out of the fit.
CONSTANT, WEIGHTS, STATES, IMAGES = 1.35, 3.27, 3.21, 21.8


def official_bytes(parts: Parts, config: TrainConfig, num_gpus: int, estimate: float) -> float:
    """Return the peak bytes of a GPU.

    Args:
        parts: networks of the run.
        config: resolved options.
        num_gpus: number of processes.
        estimate: peak of our own implementation, which counts for StyleGAN2: 8 % more than the one
            published figure.
    """
    if config.cfg == "stylegan2":
        return estimate
    count = config.images_per_pass(num_gpus)
    synthesis: Any = parts.G.synthesis
    weights = states = 0
    for plan in synthesis.plans:
        layer = synthesis.get_submodule(plan.name)
        weights += layer.weight.numel() * (2 if layer.use_fp16 else FLOAT_BYTES)
        grown = layer.conv_kernel - 1  # convolutions return all positions that they touch
        area = (plan.source.shape.height + grown) * (plan.source.shape.width + grown)
        states += layer.out_channels * area * layer.up_factor**2 // STATES_PER_BYTE
    images = math.prod(parts.image_shape) * FLOAT_BYTES
    of_images = WEIGHTS * weights + STATES * states + IMAGES * images
    return CONSTANT * parts.constant_bytes + count * of_images
