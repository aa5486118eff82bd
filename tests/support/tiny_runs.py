"""Images of noise and settings with which a training run takes a second."""

import numpy as np
from PIL import Image

#: For every configuration: batch 4, ticks of 8 images, a snapshot each.
TINY = dict(
    batch=4, aug="noaug", workers=0, z_dim=8, w_dim=8, map_depth=2, cbase=64, cmax=8,
    mbstd_group=2, grid=(3, 2), tick=0.008, snap=1, d_reg_interval=2, threads=1, device="cpu",
)  # fmt: skip
#: For StyleGAN3.
TINY_SG3 = dict(num_layers=4, margin_size=4, **TINY)


def noise_images(folder, count=10):
    """Write `count` images of 16×16 pixels to `folder`; returns its path."""
    random = np.random.RandomState(0)
    for i in range(count):
        Image.fromarray(random.randint(0, 255, [16, 16, 3], np.uint8)).save(folder / f"{i}.png")
    return str(folder)
