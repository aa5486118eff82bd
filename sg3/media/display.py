"""Images and steps that notebooks display."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageTensor(torch.Tensor):
    """A tensor `[N, C, H, W]` in [−1, 1], C 1, 3 or 4, that notebooks display as a row of images.

    Results of operations on it, copies of it and what pickles and `torch.save` keep of it are plain
    tensors. Gradients flow through it.
    """

    # Without this, results of every operation would be ImageTensors too, whatever their shape.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(images: torch.Tensor) -> ImageTensor:
        """Return `images` as an `ImageTensor` that shares memory and autograd graph."""
        return images.as_subclass(ImageTensor)

    def pil(self) -> Image:
        """Return the images side by side as one PIL image."""
        return to_pil(self)

    def _repr_png_(self) -> bytes:
        return png_bytes(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(torch.Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        return copy.deepcopy(self.as_subclass(torch.Tensor), memo)


class ImageStep:
    """Mixin for results that have an `image` `[N, C, H, W]`: notebooks display it, `pil()` returns
    it."""

    if TYPE_CHECKING:  # subclasses define a field or a cached property

        @property
        def image(self) -> torch.Tensor: ...

    def pil(self) -> Image:
        """Return `image` as a PIL image, the N images side by side."""
        return to_pil(self.image)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.image)


def to_pil(images: torch.Tensor) -> Image:
    """Return `[N, C, H, W]` in [−1, 1] as one PIL image, the N images side by side."""
    from PIL import Image

    from sg3.media.images import image_grid

    grid = image_grid(images.detach().as_subclass(torch.Tensor), columns=len(images))
    return Image.fromarray(grid[:, :, 0] if grid.shape[2] == 1 else grid)


def png_bytes(images: torch.Tensor) -> bytes:
    """Return `to_pil(images)` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    to_pil(images).save(buffer, "PNG")
    return buffer.getvalue()
