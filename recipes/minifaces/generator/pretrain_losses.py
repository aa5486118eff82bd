"""What `pretrain` compares pictures by: pixels, and features of an encoder or a discriminator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def picture_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference at three scales, so that edges and areas both count."""
    total = torch.zeros([])
    for _ in range(3):
        total = total + (a - b).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def look(D: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of the discriminator and the features after each of its blocks."""
    x, features = None, []
    for resolution in D.block_resolutions:
        x, images = getattr(D, f"b{resolution}")(x, images)
        features.append(x)
    return D.b4(x, images, None), features


class EncoderDistance:
    """How differently a bundled encoder sees two pictures.

    Relative absolute difference of its feature maps at 32, 16, 8 and 4 pixels, summed, plus
    1 − cosine of the embeddings. A mouth is 2 % of a face's pixels; in these features it counts
    for as much as the hair.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu"):
        from guidance.encoders import load_encoder

        self.tower = load_encoder(name, device).image_tower.folded()

    def features(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Maps of `images` `[N, 3, 64, 64]`, the largest first, and embeddings `[N, E]`."""
        x, maps = images.contiguous(memory_format=torch.channels_last), []
        for part in self.tower.features:
            if isinstance(part, nn.AvgPool2d):
                maps.append(x)
            x = part(x)
        return [*maps, x], self.tower.head(x.flatten(1))

    def __call__(self, images: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Mean distance of `images` to `real`, both `[N, 3, 64, 64]`; gradient for `images`."""
        with torch.no_grad():
            real_maps, real_embeddings = self.features(real)
        maps, embeddings = self.features(images)
        total = (1 - F.cosine_similarity(embeddings, real_embeddings)).mean()
        for a, b in zip(maps, real_maps, strict=True):
            total = total + (a - b).abs().mean() / b.abs().mean()
        return total
