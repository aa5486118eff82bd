"""The networks: StyleGAN3, StyleGAN2, their discriminator. `build_network` makes one by kind."""

from sg3.networks.build import build_network

__all__ = ["build_network"]
