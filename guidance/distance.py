"""How far apart two pictures look: LPIPS where its weights are, a pyramid of colours and edges
everywhere.

Either is a map from pictures to vectors whose squared Euclidean distance is the measure, so the
picture that stays the same is looked at once.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F

from sg3.errors import UserError
from sg3.media.images import as_rgb

CHOICES = ("auto", "lpips", "scales")
#: What the package torch-fidelity builds its LPIPS from, in torch's cache of checkpoints.
LPIPS_FILES = ("weights-vgg16-lpips.pth", "vgg16-397923af.pth")

#: Larger images are compared at this size, as the published StyleGAN2 projector does.
LARGEST_PX = 256


class Distance(Protocol):
    """Pictures as vectors."""

    name: str
    #: Below this, pictures can hardly be told apart: tuning may stop.
    close_enough: float

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`images` `[N, C, H, W]` in [−1, 1], C 1, 3 or 4 → `[N, D]`. Differentiable."""
        ...


class ScaleDistance:
    """Colours and edges on a pyramid, from full size to 8 pixels; needs no weights.

    Edges are divided by their strength nearby, as eyes do: a faint outline counts nearly as much
    as a bold one, and a blurred one is far from both. The mean over scales of the mean squared
    difference, so that sizes of pictures compare.
    """

    name, close_enough = "scales", 0.005
    #: Edges below this strength (of a range of 2) are taken for noise.
    FAINT = 0.1
    EDGES = 0.05
    SMALLEST_PX = 8

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` in [−1, 1] → `[N, D]`."""
        scales = [list(self._of_scale(x)) for x in self._pyramid(as_rgb(images))]
        parts = [
            part.flatten(1) * (share / part[0].numel()) ** 0.5 for s in scales for part, share in s
        ]
        return torch.cat(parts, dim=1) / len(scales) ** 0.5

    def _pyramid(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        yield x
        while min(x.shape[2:]) >= 2 * self.SMALLEST_PX:
            x = F.avg_pool2d(x, 2)
            yield x

    def _of_scale(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, float]]:
        yield x, 1.0
        for edges in (x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]):
            energy = edges.square().sum(dim=1, keepdim=True)
            nearby = F.avg_pool2d(energy, 3, stride=1, padding=1, count_include_pad=False)
            yield edges / (nearby + self.FAINT**2).sqrt(), self.EDGES


class LpipsDistance:
    """LPIPS with VGG16 (arXiv 1801.03924), by the package torch-fidelity."""

    name, close_enough = "lpips", 0.06

    def __init__(self, network: torch.nn.Module):
        self.network = network

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` in [−1, 1], at least 16 pixels a side → `[N, D]`."""
        network = self.network
        layers = network.net(network.normalize((as_rgb(images) + 1) * 127.5))
        weights = [lin.model[-1].weight.clamp_min(0) for lin in network.lins]  # [1, C, 1, 1]
        parts = [
            (F.normalize(x, dim=1) * (weight / (x.shape[2] * x.shape[3])).sqrt()).flatten(1)
            for x, weight in zip(layers, weights, strict=True)
        ]
        return torch.cat(parts, dim=1)


class Goal:
    """How far pictures are from their targets."""

    def __init__(self, targets: torch.Tensor, distance: Distance, largest_px: int = LARGEST_PX):
        self.targets, self.distance, self.largest_px = targets, distance, largest_px
        with torch.no_grad():
            self.features = self._features(targets)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        if max(height, width) > self.largest_px:
            share = self.largest_px / max(height, width)
            size = (round(height * share), round(width * share))
            images = F.interpolate(images, size=size, mode="area")
        return self.distance.features(images)

    def terms(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[B, C, H, W]` → the distance and the mean squared difference of pixels, each `[B]`."""
        return {
            "distance": (self._features(images) - self.features).square().sum(dim=1),
            "pixels": (images - self.targets).square().mean(dim=(1, 2, 3)),
        }

    def nearest(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of `images` `[N, C, H, W]`, the smallest distance to each target, and which one `[B]`."""
        found = [(self._features(image[None]) - self.features).square().sum(1) for image in images]
        return torch.stack(found).min(dim=0)


def load_distance(name: str = "auto", device: torch.device | str = "cpu") -> Distance:
    """`lpips`, `scales`, or `auto`: LPIPS where the package and its weights are on this machine.

    `lpips` downloads them where they are not. Raises ValueError, in one line, for another name, a
    missing package or weights that cannot be had.
    """
    if name not in CHOICES:
        raise ValueError(f"distance: got {name!r}, expected {', '.join(CHOICES)}")
    if name == "scales" or (name == "auto" and not lpips_is_here()):
        return ScaleDistance()
    return _load_lpips(device)


def lpips_is_here() -> bool:
    """Whether LPIPS works without a network."""
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
            'pip install "sg3[metrics]", or choose --distance scales'
        )
    from torch_fidelity import sample_similarity_lpips as package

    try:
        weights = _lpips_files()[0]
        if not weights.is_file():
            weights.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(package.URL_VGG16_LPIPS, str(weights), progress=False)
        for path in filter(Path.is_file, _lpips_files()):
            # The package would unpickle whatever is there: only plain tensors may reach it.
            torch.load(path, weights_only=True, map_location="cpu")
        network = package.SampleSimilarityLPIPS("lpips-vgg16")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"distance: the weights of lpips cannot be had ({reason}); put {LPIPS_FILES[0]} and "
            f"{LPIPS_FILES[1]} into {_lpips_files()[0].parent}, or choose --distance scales"
        ) from None
    return LpipsDistance(network.eval().requires_grad_(False).to(device))
