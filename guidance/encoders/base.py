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
    img: torch.Tensor,
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    resize_mode: str = "shortest",
    interpolation: str = "bicubic",
) -> torch.Tensor:
    """Resize and normalize images for an image tower, as those that it was trained on.

    With antialiasing. Values are not clamped, so that gradients flow where the generator leaves
    [−1, 1] (REFERENCE.md §8.1).

    Args:
        img: `[N, 3, H, W]` in [−1, 1].
        size_px: side of the result.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
        resize_mode: `shortest` cuts the square out of the middle, `squash` changes the aspect
            ratio, `longest` adds black bars.
        interpolation: `bicubic` or `bilinear`.

    Returns:
        `[N, 3, size_px, size_px]`.

    Raises ValueError for another shape or mode.
    """
    if img.ndim != 4 or img.shape[1] != 3:
        raise ValueError(f"img: got shape {tuple(img.shape)}, expected [N, 3, H, W]")
    if tuple(img.shape[2:]) != (size_px, size_px):
        size = resized(img.shape[2], img.shape[3], size_px, resize_mode)
        img = F.interpolate(img, size, mode=interpolation, antialias=True, align_corners=False)
        img = _central_square(img, size_px)
    mean_, std_ = (img.new_tensor(list(v)).reshape(1, 3, 1, 1) for v in (mean, std))
    return ((img + 1) / 2 - mean_) / std_


def resized(height: int, width: int, size_px: int, resize_mode: str) -> tuple[int, int]:
    """Return height and width of an image before it is cut or padded to `size_px`."""
    if resize_mode == "squash":
        return size_px, size_px
    if resize_mode not in ("shortest", "longest"):
        raise ValueError(
            f"resize_mode: got {resize_mode!r}, expected 'shortest', 'longest' or 'squash'"
        )
    side = min(height, width) if resize_mode == "shortest" else max(height, width)
    return max(round(height * size_px / side), 1), max(round(width * size_px / side), 1)


def _central_square(img: torch.Tensor, size_px: int) -> torch.Tensor:
    """Cut the middle out of `img`, or surround it with black."""
    padding: list[int] = []
    for side in (img.shape[3], img.shape[2]):
        # Negative values cut. Odd remainders are rounded as in torchvision and in open_clip.
        before = (size_px - side) // 2 if side < size_px else -round((side - size_px) / 2)
        padding += [before, size_px - side - before]
    return F.pad(img, padding, value=-1.0)
