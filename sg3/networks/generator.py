"""What every generator is: a mapping network before a synthesis network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from sg3.networks.layers import MappingNetwork
from sg3.networks.sizes import ImageSize


class MappedGenerator(nn.Module):
    """`z` `[N, z_dim]` (and labels `c` `[N, c_dim]`) to images (REFERENCE.md §2.1).

    `img_resolution` is the side of a square in pixels, or (height, width). `mapping_kwargs` go to
    the mapping network, the remaining ones to the synthesis network of the subclass. Raises
    ValueError for values that do not fit.
    """

    SYNTHESIS: ClassVar[type[nn.Module]]
    #: Of the mapping network, where `mapping_kwargs` do not say otherwise.
    MAPPING: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int | Sequence[int],
        img_channels: int,
        mapping_kwargs: dict | None = None,
        **synthesis_kwargs,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = ImageSize.of(img_resolution).argument, img_channels
        sizes = {"img_resolution": img_resolution, "img_channels": img_channels}
        self.synthesis = self.SYNTHESIS(w_dim=w_dim, **sizes, **synthesis_kwargs)
        self.num_ws: int = self.synthesis.num_ws  # type: ignore[assignment]
        options = self.MAPPING | (mapping_kwargs or {})
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **options)

    @property
    def img_height(self) -> int:
        return ImageSize.of(self.img_resolution).height

    @property
    def img_width(self) -> int:
        return ImageSize.of(self.img_resolution).width

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        **synthesis_kwargs,
    ) -> torch.Tensor:
        """Images `[N, img_channels, H, W]`, float32, nominally in [−1, 1]."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas=update_emas)
        return self.synthesis(ws, update_emas=update_emas, **synthesis_kwargs)
