"""Differentiable augmentation of everything that D sees (DiffAugment, arXiv 2006.10738).

The three operations are functions of given parameters; `DiffAugment` draws these for every image
(REFERENCE.md §5.8).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import pad

from sg3.networks.augment import check_images

POLICIES = ("color", "translation", "cutout")
MAX_SHIFT = 1 / 8  # of the image's side
CUTOUT_SIZE = 1 / 2  # of the image's side


def adjust_color(
    images: torch.Tensor, brightness: torch.Tensor, saturation: torch.Tensor, contrast: torch.Tensor
) -> torch.Tensor:
    """Add `brightness`, scale the distance to gray, then the distance to the image's mean.

    Args:
        images: `[N, C, H, W]` in [−1, 1] with C = 1, 3 or 4; a fourth channel (alpha) stays.
        brightness: added value `[N]`; 0 changes nothing.
        saturation: factor `[N]` of the distance to the pixel's mean over channels; 1 changes
            nothing, and a gray image is that mean.
        contrast: factor `[N]` of the distance to the mean over all pixels; 1 changes nothing.

    Returns:
        `[N, C, H, W]`, not limited to [−1, 1].
    """
    b, s, c = (x[:, None, None, None] for x in (brightness, saturation, contrast))
    colors, alpha = images[:, :3], images[:, 3:]
    colors = colors + b
    gray = colors.mean(dim=1, keepdim=True)
    colors = gray + (colors - gray) * s
    mean = colors.mean(dim=(1, 2, 3), keepdim=True)
    colors = mean + (colors - mean) * c
    return torch.cat([colors, alpha], dim=1) if alpha.shape[1] else colors


def translate(
    images: torch.Tensor, shift_px: torch.Tensor, max_px: tuple[int, int]
) -> torch.Tensor:
    """Move `images` `[N, C, H, W]` down and right; what comes into view is 0.

    Args:
        images: `[N, C, H, W]`.
        shift_px: whole pixels `[N, 2]`, down and right, at most `max_px`.
        max_px: largest shift down and right.
    """
    _, channels, height, width = images.shape
    max_y, max_x = max_px
    padded = pad(images, [max_x, max_x, max_y, max_y])
    down, right = shift_px[:, 0, None], shift_px[:, 1, None]
    rows = torch.arange(height, device=images.device) + max_y - down  # [N, H]
    columns = torch.arange(width, device=images.device) + max_x - right  # [N, W]
    # No row is read twice, so that the gradient sums nothing and is the same in every run.
    moved = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3]))
    return moved.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def cut_out(
    images: torch.Tensor, corner_px: torch.Tensor, size_px: tuple[int, int]
) -> torch.Tensor:
    """Set a rectangle of every image to 0.

    Args:
        images: `[N, C, H, W]`.
        corner_px: row and column of its upper left corner `[N, 2]`, possibly outside the image.
        size_px: its height and width.
    """
    inside = []
    for axis in (0, 1):
        place = (
            torch.arange(images.shape[2 + axis], device=images.device) - corner_px[:, axis, None]
        )
        inside.append((place >= 0) & (place < size_px[axis]))
    rows, columns = inside
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


class DiffAugment(nn.Module):
    """Augments every image with every policy, at random strengths; the shape stays the same.

    Differentiable to any order. Random numbers come from the torch generator of the images' device.

    Args:
        policies: any of "color" (brightness −½ … ½, saturation 0 … 2, contrast ½ … 3/2),
            "translation" (up to 1/8 of each side) and "cutout" (half of each side).

    Raises:
        ValueError: unknown policies.
    """

    def __init__(self, policies: Sequence[str] = POLICIES):
        super().__init__()
        unknown = [name for name in policies if name not in POLICIES]
        if unknown:
            raise ValueError(f"policies: got {unknown[0]!r}, expected {', '.join(POLICIES)}")
        self.policies = tuple(policies)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` → `[N, C, H, W]`, C = 1, 3 or 4. Raises ValueError for other shapes."""
        check_images(images)
        n, sides = images.shape[0], images.shape[2:]
        if "color" in self.policies:
            brightness, saturation, contrast = torch.rand(
                [3, n], device=images.device, dtype=images.dtype
            )
            images = adjust_color(images, brightness - 0.5, saturation * 2, contrast + 0.5)
        if "translation" in self.policies:
            down, right = (round(side * MAX_SHIFT) for side in sides)
            shift = [self._draw(-most, most, images) for most in (down, right)]
            images = translate(images, torch.stack(shift, dim=1), (down, right))
        if "cutout" in self.policies:
            height, width = (round(side * CUTOUT_SIZE) for side in sides)
            # The centre is anywhere in the image, so that borders are hidden as often as the rest.
            corner = [
                self._draw(-(size // 2), side - size // 2, images)
                for side, size in zip(sides, (height, width), strict=True)
            ]
            images = cut_out(images, torch.stack(corner, dim=1), (height, width))
        return images

    @staticmethod
    def _draw(low: int, high: int, images: torch.Tensor) -> torch.Tensor:
        """Draw a whole number from `low` … `high` for every image: int64 `[N]`."""
        return torch.randint(low, high + 1, [images.shape[0]], device=images.device)
