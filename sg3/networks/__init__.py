"""StyleGAN3 and StyleGAN2 generators, discriminator, augmentation; built by `build_network`."""

from sg3.networks.build import build_network

__all__ = ["build_network"]
