"""Perceptual distances: LPIPS if its weights are installed, otherwise colours and edges.

A distance maps images to feature vectors whose squared Euclidean distance is the measure, so the
features of a fixed image are computed once.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from sg3.errors import UserError
from sg3.media.images import as_rgb

CHOICES = ("auto", "lpips", "scales")
#: Files from which torch-fidelity builds LPIPS, in torch's cache of checkpoints.
LPIPS_FILES = ("weights-vgg16-lpips.pth", "vgg16-397923af.pth")
#: Larger images are compared at this size, as in the published StyleGAN2 projector.
LARGEST_PX = 256


class Distance(Protocol):
    """A perceptual distance.

    Attributes:
        name: "lpips" or "scales".
        close_enough: below this distance, two images can hardly be told apart.
    """

    name: str
    close_enough: float

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features `[N, D]` of `images` `[N, C, H, W]` in [−1, 1], C 1, 3 or 4. Differentiable."""
        ...


class ScaleDistance:
    """Colours and edges on a pyramid from full size to 8 pixels; needs no weights.

    Edges are divided by their local strength, like contrast masking in vision: a faint outline
    counts nearly as much as a bold one, and a blurred one is far from both. The distance is the
    mean over scales of the mean squared difference, so it is comparable across image sizes.
    """

    name, close_enough = "scales", 0.005
    #: Edges below this strength (in [−1, 1]) are treated as noise.
    FAINT = 0.1
    #: Weight of the edges relative to the colours.
    EDGES = 0.05
    SMALLEST_PX = 8

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features `[N, D]` of `images` `[N, C, H, W]` in [−1, 1]."""
        scales = [list(self._of_scale(x)) for x in self._pyramid(as_rgb(images))]
        parts = [
            part.flatten(1) * (weight / part[0].numel()) ** 0.5
            for scale in scales
            for part, weight in scale
        ]
        return torch.cat(parts, dim=1) / len(scales) ** 0.5

    def _pyramid(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        yield x
        while min(x.shape[2:]) >= 2 * self.SMALLEST_PX:
            x = F.avg_pool2d(x, 2)
            yield x

    def _of_scale(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, float]]:
        """Colours and the edges along either axis, with their weights."""
        yield x, 1.0
        for edges in (x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]):
            energy = edges.square().sum(dim=1, keepdim=True)
            nearby = F.avg_pool2d(energy, 3, stride=1, padding=1, count_include_pad=False)
            yield edges / (nearby + self.FAINT**2).sqrt(), self.EDGES


class LpipsDistance:
    """LPIPS with VGG16 (arXiv 1801.03924).

    `network`: the LPIPS module of the package torch-fidelity.
    """

    name, close_enough = "lpips", 0.06

    def __init__(self, network: Any):
        self.network = network

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features `[N, D]` of `images` `[N, C, H, W]` in [−1, 1], at least 16 pixels a side."""
        network = self.network
        layers = network.net(network.normalize((as_rgb(images) + 1) * 127.5))
        # The roots below need weights that are not negative.
        weights = [lin.model[-1].weight.clamp_min(0) for lin in network.lins]  # [1, C, 1, 1]
        # LPIPS sums weighted squared differences of normalized features, averaged over pixels; the
        # roots of the weights turn that into a Euclidean distance.
        parts = [
            (F.normalize(x, dim=1) * (weight / (x.shape[2] * x.shape[3])).sqrt()).flatten(1)
            for x, weight in zip(layers, weights, strict=True)
        ]
        return torch.cat(parts, dim=1)


class Goal:
    """Distances of images from fixed targets.

    Args:
        targets: `[B, C, H, W]` in [−1, 1].
        distance: a perceptual distance.
        largest_px: larger images are downscaled for the perceptual distance.
    """

    def __init__(self, targets: torch.Tensor, distance: Distance, largest_px: int = LARGEST_PX):
        self.targets, self.distance, self.largest_px = targets, distance, largest_px
        with torch.no_grad():
            self.features = self._features(targets)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        if max(height, width) > self.largest_px:
            scale = self.largest_px / max(height, width)
            size = (round(height * scale), round(width * scale))
            images = F.interpolate(images, size=size, mode="area")
        return self.distance.features(images)

    def terms(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Terms `[B]` of images `[B, C, H, W]`: "distance" and "pixels" (mean squared error)."""
        return {
            "distance": (self._features(images) - self.features).square().sum(dim=1),
            "pixels": (images - self.targets).square().mean(dim=(1, 2, 3)),
        }

    def nearest(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest distance of each target to `images` `[N, C, H, W]`, and its index, `[B]`."""
        found = [(self._features(image[None]) - self.features).square().sum(1) for image in images]
        smallest, which = torch.stack(found).min(dim=0)
        return smallest, which


def load_distance(name: str = "auto", device: torch.device | str = "cpu") -> Distance:
    """Load a perceptual distance.

    Args:
        name: "lpips", "scales", or "auto": LPIPS if torch-fidelity and its weights are installed.
            "lpips" downloads missing weights.
        device: where to run it.

    Raises ValueError, in one line, for another name, a missing package or missing weights.

    Example:
        >>> import guidance, torch
        >>> distance = guidance.load_distance("scales")
        >>> list(distance.features(torch.zeros(2, 3, 64, 64)).shape)[:1]
        [2]
    """
    if name not in CHOICES:
        raise ValueError(f"distance: got {name!r}, expected {', '.join(CHOICES)}")
    if name == "scales" or (name == "auto" and not lpips_is_here()):
        return ScaleDistance()
    return _load_lpips(device)


def lpips_is_here() -> bool:
    """Whether LPIPS is available offline."""
    if find_spec("torch_fidelity") is None:
        return False
    return all(path.is_file() for path in _lpips_files())


def _lpips_files() -> list[Path]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return [folder / name for name in LPIPS_FILES]


def _load_lpips(device: torch.device | str) -> LpipsDistance:
    if find_spec("torch_fidelity") is None:
        raise UserError(
            "distance: lpips needs the package torch-fidelity; install it with "
            'pip install "sg3[metrics]", or use scales'
        )
    from torch_fidelity import sample_similarity_lpips as package

    try:
        weights = _lpips_files()[0]
        if not weights.is_file():
            weights.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(package.URL_VGG16_LPIPS, str(weights), progress=False)
        for path in filter(Path.is_file, _lpips_files()):
            # torch-fidelity unpickles these files: make sure first that they hold plain tensors.
            torch.load(path, weights_only=True, map_location="cpu")
        network = package.SampleSimilarityLPIPS("lpips-vgg16")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"distance: the weights of lpips are not available ({reason}); put {LPIPS_FILES[0]} "
            f"and {LPIPS_FILES[1]} into {_lpips_files()[0].parent}, or use scales"
        ) from None
    return LpipsDistance(network.eval().requires_grad_(False).to(device))
