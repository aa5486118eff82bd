"""Encoders and perceptual distances of this package as networks of `sg3.metrics`.

`register` is the entry point `sg3.features` in `pyproject.toml`.
"""

from __future__ import annotations

import re
from functools import partial

import torch

from guidance.distance import load_distance
from guidance.encoders.base import Encoder
from guidance.encoders.load import BUNDLED as FILES
from guidance.encoders.load import load_encoder
from guidance.encoders.mini import MiniEncoder
from sg3.media.images import as_rgb
from sg3.metrics.features import (
    PerceptualDistance,
    register_features,
    register_perceptual_distance,
)
from sg3.networks.feature_maps import register_feature_maps

BUNDLED = ("mini", "mini-a", "mini-b")


class EncoderFeatures:
    """The image tower of an encoder as a feature network: unit vectors."""

    def __init__(self, encoder: Encoder, device: torch.device, name: str):
        self._encoder, self._device = encoder, device
        self.name, self.dim = name, encoder.embed_dim

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images uint8 `[N, C, H, W]` with C = 1, 3 or 4 to features float32 `[N, dim]`."""
        pixels = as_rgb(images.to(self._device)).to(torch.float32) / 127.5 - 1
        return self._encoder.encode_images(pixels).to(torch.float32)


class MiniMaps:
    """The feature maps of a mini encoder; of an ensemble, those of its first member."""

    sides_px: tuple[int, ...] = (32, 16, 8, 4)

    def __init__(self, name: str, device: torch.device):
        encoder = load_encoder(FILES[name][0], device)
        assert isinstance(encoder, MiniEncoder)
        self._encoder = encoder
        self.channels: tuple[int, ...] = encoder.config.widths

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map `[N, 3, H, W]` in [-1, 1] to maps, the largest first. Differentiable."""
        return self._encoder.feature_maps(images)


def register() -> None:
    """Register `mini`, `mini-a`, `mini-b`, `clip:NAME`, `lpips` and `scales`."""
    for name in BUNDLED:
        register_features(name, partial(_bundled, name))
        register_feature_maps(name, partial(MiniMaps, name))
    register_features("clip:NAME", _clip)
    for name in ("lpips", "scales"):
        register_perceptual_distance(name, partial(_distance, name))


def _bundled(name: str, device: torch.device, _: str | None = None) -> EncoderFeatures:
    return EncoderFeatures(load_encoder(name, device), device, name)


def _clip(device: torch.device, name: str) -> EncoderFeatures:
    try:
        encoder = load_encoder(name, device)
    except ValueError as error:  # its remedy names the option of `sg3 steer`
        raise ValueError(re.sub(r"(--|`)clip`? mini", "`features` mini", str(error))) from None
    return EncoderFeatures(encoder, device, f"clip:{name}")


def _distance(name: str, device: torch.device, _: str | None = None) -> PerceptualDistance:
    return load_distance(name, device)
