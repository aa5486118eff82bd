"""Stand-ins for CLIP in tests of adaptation, and weights of single terms."""

from __future__ import annotations

import dataclasses
import zlib

import torch
import torch.nn.functional as F

from nada import Weights


def only(**weights) -> Weights:
    """Weights of these terms only, whatever the defaults are."""
    return Weights(**{field.name: 0.0 for field in dataclasses.fields(Weights)} | weights)


class Colour:
    """Mean colour as the embedding; a text's last word names a colour."""

    name, input_size_px, embed_dim = "colour", 32, 4
    mean = std = (0.5, 0.5, 0.5)

    def encode_images(self, img):
        means = img.mean(dim=(2, 3))
        return F.normalize(torch.cat([means, torch.full_like(means[:, :1], 0.5)], dim=1), dim=1)

    def encode_texts(self, texts):
        words = [text.rstrip(".").split()[-1] for text in texts]
        table = {"red": [1.0, -1, -1, 0], "blue": [-1.0, -1, 1, 0], "grey": [0, 0, 0, 1.0]}
        return F.normalize(torch.tensor([table[word] for word in words]), dim=1)


class Hash:
    """Unit vectors that look random but are determined by the input."""

    name, input_size_px, embed_dim = "hash", 16, 5
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.matrix = torch.randn([48, 5], generator=torch.Generator().manual_seed(seed))

    def encode_images(self, img):
        pooled = F.adaptive_avg_pool2d(img, 4).flatten(1)
        return F.normalize(pooled @ self.matrix, dim=1)

    def encode_texts(self, texts):
        seeds = [zlib.crc32(text.encode()) + self.seed for text in texts]
        rows = [torch.randn([5], generator=torch.Generator().manual_seed(s)) for s in seeds]
        return F.normalize(torch.stack(rows), dim=1)
