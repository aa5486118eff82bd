"""The interface of image-text models, and the image preprocessing that adapters share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F


@runtime_checkable
class Encoder(Protocol):
    """A joint embedding of images and texts. Gradients flow through `encode_images`.

    Attributes:
        name: what identifies the encoder and its weights.
        input_size_px: side of the square input of the image tower.
        embed_dim: size of an embedding.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
    """

    name: str
    input_size_px: int
    embed_dim: int

    @property
    def mean(self) -> Sequence[float]:
        """Mean of each channel."""
        ...

    @property
    def std(self) -> Sequence[float]:
        """Standard deviation of each channel."""
        ...

    def encode_images(self, img: torch.Tensor) -> torch.Tensor:
        """Embed `img` `[N, 3, H, W]` in [−1, 1] of any size: `[N, embed_dim]` of unit norm."""
        ...

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Embed N texts: `[N, embed_dim]` of unit norm."""
        ...


def prepare_images(
    img: torch.Tensor, size_px: int, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Resize and normalize images for an image tower.

    Bicubic with antialiasing to the shorter side, then a centre crop. Values are not clamped, so
    that gradients flow where the generator leaves [−1, 1] (REFERENCE.md §8.1).

    Args:
        img: `[N, 3, H, W]` in [−1, 1].
        size_px: side of the result.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.

    Returns:
        `[N, 3, size_px, size_px]`.
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
