"""Projected discriminator: small discriminators on frozen features (arXiv 2111.01007).

Feature maps of a frozen network are mixed across channels, then across scales, by random fixed
convolutions; one small discriminator per scale judges the result (REFERENCE.md §3.10).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from sg3.errors import UserError
from sg3.networks.feature_maps import FeatureMaps, load_feature_maps
from sg3.networks.sizes import ImageSize

LOGITS_PX = 4  # side of the map of logits of each scale
SLOPE = 0.2


def projected_kwargs(
    features: str, img_resolution: int | Sequence[int], img_channels: int, c_dim: int = 0
) -> dict[str, Any]:
    """Return constructor arguments of `ProjectedDiscriminator` for the feature network `features`.

    Raises ValueError if it cannot be loaded.
    """
    maps = load_feature_maps(features)
    return {
        "features": features,
        "map_channels": list(maps.channels),
        "map_sides": list(maps.sides_px),
        "img_resolution": img_resolution,
        "img_channels": img_channels,
        "c_dim": c_dim,
    }


class FixedMixing(nn.Module):
    """Random fixed convolutions across channels (1×1) and scales (3×3, coarse to fine).

    Args:
        map_channels: channels of each map, the largest map first.
        width: channels of each result.
    """

    def __init__(self, map_channels: Sequence[int], width: int):
        super().__init__()
        self.num_maps = len(map_channels)
        for i, channels in enumerate(map_channels):
            # Unit variance in, unit variance out. Buffers: no optimizer and no penalty sees them.
            self.register_buffer(f"channels{i}", torch.randn([width, channels, 1, 1]))
            self.register_buffer(f"scales{i}", torch.randn([width, width, 3, 3]))

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return `[N, width, side, side]` for every map, the largest first."""
        coarser: torch.Tensor | None = None
        mixed = []
        for i in reversed(range(self.num_maps)):
            x = _convolve(maps[i], self.get_buffer(f"channels{i}"))
            if coarser is not None:
                up = F.interpolate(coarser, size=x.shape[2:], mode="bilinear", align_corners=False)
                x = (x + up) * 0.5**0.5
            coarser = _convolve(x, self.get_buffer(f"scales{i}"))
            mixed.append(coarser)
        return mixed[::-1]


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    fan_in = weight[0].numel()
    return F.conv2d(x, weight * fan_in**-0.5, padding=weight.shape[2] // 2)


def scale_discriminator(side: int, width: int) -> nn.Sequential:
    """Return a discriminator of `[N, width, side, side]` to logits `[N, 1, ≤ 4, ≤ 4]`.

    Convolutions have spectral norm (arXiv 1802.05957): there is no R1 that would bound them.
    """
    layers: list[nn.Module] = [spectral_norm(nn.Conv2d(width, width, 3, padding=1))]
    layers.append(nn.LeakyReLU(SLOPE))
    while side > LOGITS_PX:
        layers.append(spectral_norm(nn.Conv2d(width, width, 4, stride=2, padding=1)))
        layers.append(nn.LeakyReLU(SLOPE))
        side = side // 2
    layers.append(spectral_norm(nn.Conv2d(width, 1, 3, padding=1)))
    return nn.Sequential(*layers)


class ProjectedDiscriminator(nn.Module):
    """Maps images in [−1, 1] to logits of several scales and places; positive means real.

    The feature network is no part of the module: files name it, and it is loaded by the first
    forward pass.

    Args:
        features: a name for `sg3.networks.feature_maps.load_feature_maps`.
        map_channels: channels of its maps, the largest map first.
        map_sides: their sides in pixels.
        img_resolution: side of a square image in pixels, or (height, width).
        img_channels: 1 or 3.
        c_dim: 0; there are no labels.
        width: channels of the mixed maps and of the discriminators.

    Raises:
        ValueError: invalid values.
    """

    def __init__(
        self,
        features: str,
        map_channels: Sequence[int],
        map_sides: Sequence[int],
        img_resolution: int | Sequence[int],
        img_channels: int,
        c_dim: int = 0,
        width: int = 64,
    ):
        super().__init__()
        if img_channels not in (1, 3) or c_dim:
            raise UserError(
                f"projected discriminator: got {img_channels} image channels and labels of size "
                f"{c_dim}, expected 1 or 3 channels and no labels"
            )
        image = ImageSize.of(img_resolution)
        self.c_dim, self.img_resolution, self.img_channels = 0, image.argument, img_channels
        self.features, self._shape = features, (img_channels, image.height, image.width)
        self.mixing = FixedMixing(map_channels, width)
        self.scales = nn.ModuleList(scale_discriminator(side, width) for side in map_sides)
        self._map_channels = tuple(map_channels)
        # In a list, so that the network is no submodule and not part of the state dict.
        self._maps: list[FeatureMaps] = []

    def load_features(self, device: torch.device | str) -> None:
        """Load the feature network onto `device`, where images will be.

        Raises ValueError if it is not the one that this discriminator was made for.
        """
        loaded = load_feature_maps(self.features, device)
        if tuple(loaded.channels) != self._map_channels:
            raise UserError(
                f"features: {self.features} has maps of {list(loaded.channels)} channels, the "
                f"discriminator expects {list(self._map_channels)}; use the same weights"
            )
        self._maps = [loaded]

    def _maps_of(self, img: torch.Tensor) -> list[torch.Tensor]:
        if not self._maps:
            self.load_features(img.device)
        return self._maps[0](img.expand(-1, 3, -1, -1))

    def forward(
        self,
        img: torch.Tensor,
        c: torch.Tensor | None = None,
        update_emas: bool = False,
        force_fp32: bool = False,
    ) -> torch.Tensor:
        """Return logits `[N, K]` of images `[N, img_channels, H, W]` in [−1, 1].

        K counts scales and places. The other arguments are those of `Discriminator`, and ignored.
        Raises ValueError for another shape.
        """
        if img.ndim != 4 or img.shape[1:] != self._shape:
            expected = ", ".join(map(str, self._shape))
            raise ValueError(f"img: got shape {tuple(img.shape)}, expected [N, {expected}]")
        mixed = self.mixing(self._maps_of(img))
        logits = [head(x).flatten(1) for head, x in zip(self.scales, mixed, strict=True)]
        return torch.cat(logits, dim=1)
