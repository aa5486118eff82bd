"""Block sizes and names of StyleGAN2 forks for other than square images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from sg3.checkpoints.inert import Record
from sg3.checkpoints.pickle_machine import Refused
from sg3.checkpoints.storage import TensorView
from sg3.networks.sizes import ImageSize, num_halvings

T = TypeVar("T")
MAX_BLOCKS = 14
TRANSFORM = "synthesis.input.transform"


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of a StyleGAN2 network whose first block is not 4×4, as in forks for wide images."""

    start: ImageSize
    doublings: int

    @property
    def image(self) -> ImageSize:
        """Size of the images."""
        return ImageSize(self.start.height << self.doublings, self.start.width << self.doublings)

    def arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return `kwargs` of a generator or discriminator with these sizes."""
        found = {**kwargs, "img_resolution": self.image.argument}
        # The channels of a block follow from its size, which is 4·2ⁿ in the file.
        base = kwargs.get("channel_base", 32768)
        if self.start.larger != 4 and isinstance(base, (int, float)):
            found["channel_base"] = base * self.start.larger // 4
        try:
            usual = num_halvings(self.image) == self.doublings
        except ValueError:
            usual = False
        return found if usual else {**found, "start_size": [self.start.height, self.start.width]}

    def rename(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Return `tensors` with blocks named by their larger side: b4 in the file may become b6.

        The last block of discriminators is always b4.
        """

        def own(found: re.Match) -> str:
            is_last = not found[1] and found[2] == "4"
            return found[0] if is_last else f"{found[1]}b{int(found[2]) * self.start.larger // 4}."

        return {re.sub(r"\A(synthesis\.|)b(\d{1,6})\.", own, n): t for n, t in tensors.items()}


def block_sizes_of(generator: Record) -> BlockSizes | None:
    """Return the sizes of a StyleGAN2 generator if its first block is not 4×4, else None.

    The shape of its constant is taken, not the arguments, which differ between forks and may be
    missing.
    """
    synthesis = generator.children.get("synthesis")
    blocks = synthesis.children if synthesis is not None else {}
    constant = blocks["b4"].part("_parameters").get("const") if "b4" in blocks else None
    if not isinstance(constant, TensorView) or constant.size[1:] == (4, 4):
        return None
    doublings = sum(re.fullmatch(r"b\d+", name) is not None for name in blocks) - 1
    if len(constant.size) != 3 or not all(constant.size) or doublings > MAX_BLOCKS:
        raise Refused(f"synthesis.b4.const has shape {list(constant.size)[:8]}, expected [C, H, W]")
    return BlockSizes(ImageSize(*constant.size[1:]), doublings)


def single_transform(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a generator with a StyleGAN3 input transform `[3, 3]`.

    Editing tools leave one for each image of a batch, `[B, 3, 3]`. Raises Refused if they differ.
    """
    transform = tensors.get(TRANSFORM)
    if transform is None or transform.ndim != 3 or not len(transform):
        return tensors
    if not bool((transform == transform[0]).all()):
        raise Refused(
            f"{TRANSFORM}: {len(transform)} different matrices, one per image of a batch, expected "
            "one; save the network with the transform of one image"
        )
    return {**tensors, TRANSFORM: transform[0].clone()}
