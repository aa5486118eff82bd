"""What steering needs of an image–text model, and the arithmetic every adapter shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F


@runtime_checkable
class Encoder(Protocol):
    """A joint embedding of images and texts. Gradients flow through `encode_images`."""

    name: str
    #: Side of the square picture that the image tower reads.
    input_size_px: int
    embed_dim: int
    #: Per channel, for pixels in [0, 1].
    mean: Sequence[float]
    std: Sequence[float]

    def encode_images(self, img: torch.Tensor) -> torch.Tensor:
        """`img` `[N, 3, H, W]` in [−1, 1], any size → `[N, embed_dim]` of unit norm."""
        ...

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """N texts → `[N, embed_dim]` of unit norm."""
        ...


def prepare_images(
    img: torch.Tensor, size_px: int, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """`img` `[N, 3, H, W]` in [−1, 1] → `[N, 3, size_px, size_px]`, normalised for a tower.

    Bicubic with antialiasing to the shorter side, then the centre. No clamp: a gradient must
    also flow where the generator left [−1, 1] (REFERENCE.md §8.1).
    """
    if img.ndim != 4 or img.shape[1] != 3:
        raise ValueError(f"img: got shape {tuple(img.shape)}, expected [N, 3, H, W]")
    height, width = img.shape[2:]
    if (height, width) != (size_px, size_px):
        scale = size_px / min(height, width)
        size = [max(round(height * scale), size_px), max(round(width * scale), size_px)]
        img = F.interpolate(img, size=size, mode="bicubic", antialias=True, align_corners=False)
        top, left = (size[0] - size_px) // 2, (size[1] - size_px) // 2
        img = img[:, :, top : top + size_px, left : left + size_px]
    mean_, std_ = (img.new_tensor(list(v)).reshape(1, 3, 1, 1) for v in (mean, std))
    return ((img + 1) / 2 - mean_) / std_
