"""Images that notebooks display."""

from __future__ import annotations

import io
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageTensor(torch.Tensor):
    """A tensor `[N, C, H, W]` in [−1, 1] that notebooks display as a row of images.

    Results of operations on it are plain tensors.
    """

    # Without this every result would be an ImageTensor too, whatever its shape means.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(images: torch.Tensor) -> ImageTensor:
        """`images` as an `ImageTensor`, sharing memory and gradient."""
        return images.as_subclass(ImageTensor)

    def pil(self) -> Image:
        """The images side by side as one PIL image."""
        return to_pil(self)

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


class ImageStep:
    """Mixin for steps with an `image` `[N, C, H, W]`: `pil()`, and a display in notebooks."""

    @cached_property
    def image(self) -> torch.Tensor:
        """Provided by the step."""
        raise NotImplementedError

    def pil(self) -> Image:
        """`image` as a PIL image."""
        return to_pil(self.image)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.image)


def to_pil(images: torch.Tensor) -> Image:
    """`[N, C, H, W]` in [−1, 1] as one PIL image, the N images side by side."""
    from PIL import Image

    from sg3.media.images import image_grid

    grid = image_grid(images.detach().as_subclass(torch.Tensor), columns=len(images))
    return Image.fromarray(grid[:, :, 0] if grid.shape[2] == 1 else grid)


def png_bytes(images: torch.Tensor) -> bytes:
    """`to_pil` encoded as PNG."""
    buffer = io.BytesIO()
    to_pil(images).save(buffer, "PNG")
    return buffer.getvalue()
