"""Base class of generators: a mapping network followed by a synthesis network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from sg3.networks.layers import MappingNetwork
from sg3.networks.sizes import ImageSize

LABEL_KINDS = ("classes", "vectors")


class MappedGenerator(nn.Module):
    """Maps latents `z` and labels `c` to images (REFERENCE.md §2.1).

    Args:
        z_dim: size of the input latent Z.
        c_dim: size of the label; 0: unconditional.
        w_dim: size of the intermediate latent W.
        img_resolution: side of a square image in pixels, or (height, width).
        img_channels: number of image channels.
        mapping_kwargs: arguments of `sg3.networks.layers.MappingNetwork`.
        label_kind: "classes" (one-hot labels) or "vectors"; says what users may ask for.
        synthesis_kwargs: arguments of the synthesis network of the subclass.

    Raises:
        ValueError: invalid values.
    """

    #: Class of the synthesis network. It has an attribute `num_ws`.
    SYNTHESIS: ClassVar[type[Any]]
    #: Defaults of the mapping network, overridden by `mapping_kwargs`.
    MAPPING: ClassVar[dict[str, Any]] = {}

    img_resolution: int | tuple[int, int]
    num_ws: int
    mapping: MappingNetwork
    synthesis: nn.Module

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int | Sequence[int],
        img_channels: int,
        mapping_kwargs: dict | None = None,
        label_kind: str = "classes",
        **synthesis_kwargs,
    ):
        super().__init__()
        if label_kind not in LABEL_KINDS:
            raise ValueError(
                f"label_kind: got {label_kind!r}, expected one of {', '.join(LABEL_KINDS)}"
            )
        self.z_dim, self.c_dim, self.w_dim, self.label_kind = z_dim, c_dim, w_dim, label_kind
        self.img_resolution, self.img_channels = ImageSize.of(img_resolution).argument, img_channels
        sizes = {"img_resolution": img_resolution, "img_channels": img_channels}
        synthesis = self.SYNTHESIS(w_dim=w_dim, **sizes, **synthesis_kwargs)
        self.synthesis, self.num_ws = synthesis, synthesis.num_ws
        options = self.MAPPING | (mapping_kwargs or {})
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **options)

    @property
    def img_height(self) -> int:
        """Height of an image in pixels."""
        return ImageSize.of(self.img_resolution).height

    @property
    def img_width(self) -> int:
        """Width of an image in pixels."""
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
        """Generate images.

        Args:
            z: latents `[N, z_dim]`, standard normal.
            c: labels `[N, c_dim]`, one-hot; only for conditional networks.
            truncation_psi: pulls w towards the average latent; 1: no truncation, 0: the average.
            truncation_cutoff: number of rows of ws to truncate; None: all.
            update_emas: update moving averages (training only).
            label_kind: "classes" (one-hot labels) or "vectors"; says what users may ask for.
        synthesis_kwargs: arguments of `synthesis.forward`: `noise_mode` ("random", "const" or
                "none"; StyleGAN2 only) and `force_fp32`.

        Returns:
            float32 images `[N, img_channels, H, W]`, nominally in [−1, 1], not clamped.

        Raises:
            ValueError: `z` or `c` has another shape.
        """
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas=update_emas)
        return self.synthesis(ws, update_emas=update_emas, **synthesis_kwargs)
