"""Frozen networks whose intermediate feature maps a discriminator judges, by name.

Packages above `sg3` add networks in the functions of the entry point group `sg3.features`
(`sg3.plugins`), by calling `register_feature_maps`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from sg3.errors import UserError
from sg3.plugins import load_plugins

ENTRY_POINTS = "sg3.features"
NUM_MAPS = 4


class FeatureMaps(Protocol):
    """A frozen network from images to feature maps.

    Attributes:
        channels: channels of each map, the largest map first.
        sides_px: sides of each map; all are squares.
    """

    channels: tuple[int, ...]
    sides_px: tuple[int, ...]

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map `[N, 3, H, W]` in [−1, 1] to maps `[N, channels, side, side]`. Differentiable."""
        ...


#: Called as `loader(device)`, or `loader(device, argument)` for `timm:ARGUMENT`.
_LOADERS: dict[str, Callable[[torch.device], FeatureMaps]] = {}


def register_feature_maps(name: str, loader: Callable[[torch.device], FeatureMaps]) -> None:
    """Make the network that `loader(device)` returns available under a name without a colon."""
    _LOADERS[name] = loader


def load_feature_maps(spec: str, device: str | torch.device = "cpu") -> FeatureMaps:
    """Load the network `spec`, frozen, onto `device`.

    Args:
        spec: `timm:MODEL` for a convolutional model of timm with its published weights, or
            `timm:MODEL/FILE`; with the package `guidance` also `mini`, `mini-a` and `mini-b`.
        device: a torch device.

    Raises ValueError for unknown names, missing modules and failed downloads.
    """
    # Constructors draw initial weights: a run resumed bit for bit must not notice when it loads.
    with torch.random.fork_rng(devices=[]):
        return _load(spec, torch.device(device))


def _load(spec: str, device: torch.device) -> FeatureMaps:
    prefix, _, argument = spec.partition(":")
    if prefix == "timm" and argument:
        return TimmMaps(argument, device)
    if spec not in _LOADERS:
        load_plugins(ENTRY_POINTS)
    if spec not in _LOADERS:
        known = ", ".join([*sorted(_LOADERS), "timm:MODEL"])
        raise UserError(f"features: got {spec!r}, expected one of {known}")
    return _LOADERS[spec](device)


class TimmMaps:
    """The last four feature maps of a model of timm, at the size that it was trained with.

    Args:
        argument: `MODEL` or `MODEL/FILE`; no code in the file is executed.
        device: where to run it.
    """

    def __init__(self, argument: str, device: torch.device):
        self._model = _timm_model(argument).eval().requires_grad_(False).to(device)
        config = self._model.pretrained_cfg
        self._size_px = config["input_size"][-1]
        self._mean, self._std = (
            torch.tensor(config[key], device=device).reshape(1, 3, 1, 1) for key in ("mean", "std")
        )
        with torch.no_grad():
            maps = self(torch.zeros([1, 3, self._size_px, self._size_px], device=device))
        self.channels: tuple[int, ...] = tuple(x.shape[1] for x in maps)
        self.sides_px: tuple[int, ...] = tuple(x.shape[2] for x in maps)

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """See `FeatureMaps`."""
        size = [self._size_px, self._size_px]
        if images.shape[2:] != (self._size_px, self._size_px):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        pixels = ((images + 1) / 2 - self._mean) / self._std
        return self._model.forward_intermediates(
            pixels, indices=NUM_MAPS, intermediates_only=True, output_fmt="NCHW"
        )


def _timm_model(argument: str) -> Any:
    """Return a model of timm with weights. Raises ValueError if that is impossible."""
    name, _, path = argument.partition("/")
    try:
        import timm
        from timm.models import load_state_dict
    except ModuleNotFoundError:
        raise UserError("features: timm:MODEL needs timm; pip install timm") from None
    if path and not Path(path).is_file():
        raise UserError(f"features: {path}: no such file")
    try:
        model = timm.create_model(name, pretrained=not path)
        if path:
            model.load_state_dict(load_state_dict(path, weights_only=True))
    except Exception as error:  # unknown model, no network, a file that does not fit
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"features: cannot load timm:{argument} ({reason})") from None
    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"features: timm:{name} gives no intermediate maps; use another model")
    return model
