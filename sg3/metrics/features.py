"""Feature networks and perceptual distances by name, and their registration.

Results carry the name of the network they were computed with. Packages above `sg3` add networks
through the entry point group `sg3.features` (`sg3.plugins`): each entry is a function that calls
`register_features` and `register_perceptual_distance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch

from sg3.metrics.detectors import load_inception, load_lpips, load_vgg16
from sg3.metrics.vision import load_dinov2, load_timm
from sg3.plugins import load_plugins

ENTRY_POINTS = "sg3.features"


@runtime_checkable
class FeatureNetwork(Protocol):
    """A frozen network from images to vectors, on one device.

    Attributes:
        name: identifies network and weights; part of every result.
        dim: length of the vectors.
    """

    name: str
    dim: int

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images uint8 `[N, C, H, W]` with C = 1, 3 or 4 to features float32 `[N, dim]`."""
        ...


class PerceptualDistance(Protocol):
    """A map from images to vectors whose squared Euclidean distance is perceptual."""

    name: str

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Map images `[N, 3, H, W]` in [−1, 1] to vectors `[N, D]`."""
        ...


#: Called as `loader(device, argument)`, where `argument` follows the colon in the name, or None.
Loader = Callable[..., Any]


class LoaderTable:
    """Loaders by name: `NAME`, or `PREFIX:PLACEHOLDER` for all names `PREFIX:…`."""

    def __init__(self, loaders: dict[str, Loader]):
        self._loaders = loaders

    def register(self, name: str, loader: Loader) -> None:
        """Add or replace a loader."""
        self._loaders[name] = loader

    def names(self) -> list[str]:
        """Return all names, those with a placeholder last."""
        load_plugins(ENTRY_POINTS)
        return sorted(self._loaders, key=lambda name: ":" in name)

    def find(self, spec: str) -> Loader | None:
        """Return the loader of `spec`, None if unknown. Loads plug-ins only if necessary."""
        if self._find(spec) is None:
            load_plugins(ENTRY_POINTS)
        return self._find(spec)

    def _find(self, spec: str) -> Loader | None:
        prefix, colon, argument = spec.partition(":")
        if colon and not argument:
            return None
        for name, loader in self._loaders.items():
            if name.partition(":")[0] == prefix and (":" in name) == bool(colon):
                return loader
        return None

    def check(self, spec: str) -> Loader:
        """Return the loader of `spec`. Raises ValueError that lists the known names."""
        loader = self.find(spec)
        if loader is None:
            *most, last = self.names()
            raise ValueError(f"features: got {spec!r}, expected {', '.join(most)} or {last}")
        return loader

    def load(self, spec: str, device: str | torch.device) -> Any:
        """Load the network `spec`. Raises ValueError if it is unknown or cannot be loaded."""
        loader = self.check(spec)
        try:
            return loader(torch.device(device), spec.partition(":")[2] or None)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"features: {spec!r} needs the Python module {error.name!r}, which is not installed"
            ) from None


FEATURES = LoaderTable(
    {
        "inception": load_inception,
        "inception:FILE": load_inception,
        "vgg16": load_vgg16,
        "vgg16:FILE": load_vgg16,
        "dinov2": load_dinov2,
        "dinov2:FILE": load_dinov2,
        "timm:MODEL": load_timm,
    }
)
PERCEPTUAL = LoaderTable({"vgg16": load_lpips, "vgg16:FILE": load_lpips})


def register_features(name: str, loader: Loader) -> None:
    """Make a feature network available under a name.

    Args:
        name: `NAME`, or `PREFIX:PLACEHOLDER` for all names `PREFIX:…`.
        loader: called as `loader(device, argument)`; `argument` is what follows the colon, or
            None.
    """
    FEATURES.register(name, loader)


def register_perceptual_distance(name: str, loader: Loader) -> None:
    """Make a perceptual distance, as path lengths need, available under a name.

    The arguments are those of `register_features`.
    """
    PERCEPTUAL.register(name, loader)


def load_features(spec: str, device: str | torch.device = "cpu") -> FeatureNetwork:
    """Load the feature network `spec`, frozen, onto `device`.

    Args:
        spec: `inception`, `vgg16` or `dinov2`, which are downloaded, or read from a file as
            `inception:FILE` …; `timm:MODEL` for any image model of timm; with the package
            `guidance` also the bundled `mini`, `mini-a` and `mini-b`, and `clip:NAME` for any of
            its encoders.
        device: a torch device.

    Raises ValueError for unknown names, files that do not fit and failed downloads.
    """
    return FEATURES.load(spec, device)


def load_perceptual_distance(spec: str, device: str | torch.device = "cpu") -> PerceptualDistance:
    """Load the perceptual distance `spec` onto `device`.

    Args:
        spec: `vgg16` or `vgg16:FILE`, the LPIPS of the official tools; with the package
            `guidance` also `lpips`, the same from torch-fidelity, and `scales`, colours and edges
            on an image pyramid, which needs no weights.
        device: a torch device.

    Raises ValueError for unknown names, files that do not fit and failed downloads.
    """
    return PERCEPTUAL.load(spec, device)
