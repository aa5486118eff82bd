"""Distances of images in pixels, in features of an encoder and in those of a discriminator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def pixel_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference, summed over three scales: edges and areas count."""
    total = torch.zeros([])
    for _ in range(3):
        total = total + (a - b).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def discriminator_features(
    D: nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the logits of the discriminator, and the features after each of its blocks."""
    x, features = None, []
    for resolution in D.block_resolutions:
        x, images = getattr(D, f"b{resolution}")(x, images)
        features.append(x)
    return D.b4(x, images, None), features


class EncoderDistance:
    """Perceptual distance of images in the features of a bundled encoder.

    Relative absolute difference of its feature maps at 32, 16, 8 and 4 pixels, summed, plus
    1 − cosine of the embeddings. A mouth covers 2 % of a face; in these features it has as much
    weight as the hair.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        from guidance.encoders import load_encoder

        self.tower = load_encoder(name, device).image_tower.folded()

    def features(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return feature maps of `images` `[N, 3, 64, 64]`, the largest first, and embeddings."""
        x, maps = images.contiguous(memory_format=torch.channels_last), []
        for part in self.tower.features:
            if isinstance(part, nn.AvgPool2d):
                maps.append(x)
            x = part(x)
        return [*maps, x], self.tower.head(x.flatten(1))

    def __call__(self, images: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Return the mean distance of `images` to `real`, with gradients for `images` only."""
        with torch.no_grad():
            real_maps, real_embeddings = self.features(real)
        maps, embeddings = self.features(images)
        total = (1 - F.cosine_similarity(embeddings, real_embeddings)).mean()
        for a, b in zip(maps, real_maps, strict=True):
            total = total + (a - b).abs().mean() / b.abs().mean()
        return total
