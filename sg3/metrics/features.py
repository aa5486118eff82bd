"""Feature networks: what an image metric looks through. Each has a name, and results carry it."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, runtime_checkable

import torch

from sg3.media.images import as_rgb

#: name → where its loader lives; `LOADER(name, device)` makes the network. Those of packages above
#: `sg3` are named, never imported from here before they are asked for.
ENCODER = "guidance.encoders:load_encoder"
FEATURES = {
    "inception": "sg3.metrics.detectors:load_inception",
    "vgg16": "sg3.metrics.detectors:load_vgg16",
    "dinov2": "sg3.metrics.vision:load_dinov2",
    "mini": ENCODER,
    "mini-a": ENCODER,
    "mini-b": ENCODER,
}
#: prefix → loader of what follows it: weights from a file, or any encoder of `sg3 steer --clip`.
PREFIXES = {
    "inception": "sg3.metrics.detectors:load_inception",
    "vgg16": "sg3.metrics.detectors:load_vgg16",
    "dinov2": "sg3.metrics.vision:load_dinov2",
    "timm": "sg3.metrics.vision:load_timm",
    "clip": ENCODER,
}
#: What path lengths are seen through; DISTANCE is called with the name and the device.
DISTANCE = "guidance.distance:load_distance"
PERCEPTIONS = {"vgg16": "sg3.metrics.detectors:load_lpips", "lpips": DISTANCE, "scales": DISTANCE}


PREFIXED = ("inception:FILE", "timm:NAME", "clip:NAME")


@runtime_checkable
class FeatureNetwork(Protocol):
    """Images to vectors, frozen, on one device."""

    #: Stands in every result; names the weights too.
    name: str
    dim: int

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """`images` uint8 `[N, C, H, W]` with C 1, 3 or 4 → float32 `[N, dim]`."""
        ...


class EncoderFeatures:
    """The image tower of an encoder of `guidance`: unit vectors."""

    def __init__(self, encoder: Any, device: torch.device, name: str):
        self._encoder, self._device = encoder, device
        self.name, self.dim = name, encoder.embed_dim

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pixels = as_rgb(images.to(self._device)).to(torch.float32) / 127.5 - 1
        return self._encoder.encode_images(pixels).to(torch.float32)


def is_known(spec: str, perceptions: dict[str, str] | None = None) -> bool:
    """Whether `spec` has the form of a feature network's name, or is one of `perceptions`."""
    prefix, _, rest = spec.partition(":")
    if perceptions is not None:
        return spec in perceptions or (prefix == "vgg16" and bool(rest))
    return spec in FEATURES or (prefix in PREFIXES and bool(rest))


def check_spec(spec: str, perceptions: dict[str, str] | None = None) -> None:
    """Raise ValueError, in one line, for what is not the name of a feature network."""
    if not is_known(spec, perceptions):
        names = [*(perceptions or FEATURES), *(["vgg16:FILE"] if perceptions else PREFIXED)]
        raise ValueError(f"features: got {spec!r}, expected {', '.join(names[:-1])} or {names[-1]}")


def _find(path: str, spec: str):
    module, attribute = path.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"features: {spec!r} needs the Python module {error.name!r}, which is not installed"
        ) from None


def load_features(spec: str, device: str | torch.device = "cpu") -> FeatureNetwork:
    """The feature network `spec`, frozen, on `device`.

    `inception` and `vgg16` (`inception:FILE` with weights of your own; both are downloaded
    otherwise), `dinov2`, `timm:NAME` for any image model of timm, `mini`, `mini-a`, `mini-b`
    (bundled), or `clip:NAME` for any encoder that `sg3 steer --clip` knows. Raises ValueError in
    one line otherwise, or without a network.
    """
    check_spec(spec)
    device = torch.device(device)
    prefix, _, rest = spec.partition(":")
    path = PREFIXES[prefix] if rest else FEATURES[spec]
    loader = _find(path, spec)
    if path == ENCODER:
        try:
            return EncoderFeatures(loader(rest or spec, device), device, spec)
        except ValueError as error:  # it speaks to users of `sg3 steer`
            raise ValueError(str(error).replace("--clip mini", "--features mini")) from None
    return loader(device, rest or None)


def load_perception(spec: str, device: str | torch.device = "cpu"):
    """What path lengths are seen through (`path_length.Perception`), on `device`.

    `vgg16` (`vgg16:FILE`) is LPIPS as the official tools compute it, `lpips` the same by the
    package torch-fidelity, `scales` colours and edges on a pyramid, which need no weights. Raises
    ValueError in one line otherwise, or without a network.
    """
    check_spec(spec, PERCEPTIONS)
    prefix, _, rest = spec.partition(":")
    loader = _find(PERCEPTIONS[prefix], spec)
    if PERCEPTIONS[prefix] == DISTANCE:
        return loader(spec, device)
    return loader(torch.device(device), rest or None)
