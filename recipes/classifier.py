"""A small image classifier, in whose features and classes small generators are judged.

    python -m recipes.fashion prepare --outdir data          # writes data/fashion-classifier…
    sg3 metrics --network RUN --data data/fashion-32.zip \\
      --metrics fd5k_full,pr5k3_full --features classifier:data/fashion-classifier.safetensors

Fréchet distances in its features are comparable only among generators that the same classifier
judged. Report the distance between two halves of the real images beside them: it is the scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sg3.errors import UserError
from sg3.files import read_tensors, write_tensors
from sg3.media.images import as_rgb
from sg3.settings import check_settings, documented, setting

FORMAT = "sg3-small-classifier"
STAGES = (24, 48, 96)  # channels


@documented
@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of `train_classifier`."""

    epochs: int = setting(4, "Passes over the images.", min=1)
    batch: int = setting(128, "Batch size.", min=2)
    lr: float = setting(2e-3, "Highest learning rate.", above=0)
    shift_px: int = setting(2, "Largest random shift of an image in pixels.", min=0)
    seed: int = setting(0, "Random seed.", min=0)

    def __post_init__(self) -> None:
        check_settings(self)


class Classifier(nn.Module):
    """Three strided stages of 3×3 convolutions, `dim` features, one linear layer of classes.

    A feature network for `sg3.metrics.evaluate`.

    Args:
        channels: channels of the images, 1 or 3.
        classes: their names.
        dim: number of features.
    """

    def __init__(self, channels: int, classes: tuple[str, ...], dim: int = 64) -> None:
        super().__init__()
        self.channels, self.classes, self.dim = channels, classes, dim
        self.name = "classifier"
        layers, width = [], channels
        for outputs in STAGES:
            layers += [*_convolution(width, outputs, 1), *_convolution(outputs, outputs, 2)]
            width = outputs
        self.stages = nn.Sequential(*layers)
        self.project = nn.Linear(width * 16, dim)
        self.head = nn.Linear(dim, len(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images `[N, C, H, W]` with C = 1, 3 or 4 to features `[N, dim]`."""
        x = images.to(self.head.weight.device, torch.float32)
        if x.shape[1] != self.channels:
            x = as_rgb(x) if self.channels == 3 else x[:, :3].mean(1, keepdim=True)
        x = self.stages(x / 127.5 - 1)
        return F.relu(self.project(F.adaptive_avg_pool2d(x, 4).flatten(1)))

    @torch.no_grad()
    def classify(self, images: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
        """Return features `[N, dim]` and predicted classes, int64 `[N]`, of uint8 images."""
        features = torch.cat([self(part) for part in images.split(batch)])
        return features, self.head(features).argmax(1)

    def save(self, path: str | Path, provenance: dict[str, Any]) -> None:
        """Write weights, class names and `provenance` as safetensors, atomically."""
        sizes = {"channels": self.channels, "classes": self.classes, "dim": self.dim}
        metadata = {
            "format": FORMAT, "sizes": json.dumps(sizes), "provenance": json.dumps(provenance)
        }  # fmt: skip
        write_tensors(path, self.state_dict(), metadata)


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """Load a classifier that `Classifier.save` wrote, frozen and in eval mode.

    Raises ValueError if the file is missing or holds something else.
    """
    tensors, metadata = read_tensors(path, "classifier", "one written by a recipe's `prepare`")
    if metadata.get("format") != FORMAT:
        raise UserError(f"classifier {path}: expected a file written by a recipe's `prepare`")
    sizes = json.loads(metadata["sizes"])
    model = Classifier(sizes["channels"], tuple(sizes["classes"]), sizes["dim"])
    model.load_state_dict(tensors)
    model.name = f"classifier:{Path(path).stem}"
    return model.eval().requires_grad_(False).to(device)


def register() -> None:
    """Offer classifiers to `sg3 metrics` and `sg3 train` as the features `classifier:FILE`."""
    from sg3.metrics.features import register_features

    register_features("classifier:FILE", lambda device, path: load_classifier(path, device))


def _batches(images: Tensor, labels: Tensor, config: ClassifierConfig) -> Iterator[list[Tensor]]:
    """Yield shuffled, shifted batches of images and labels."""
    random = torch.Generator().manual_seed(config.seed)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(images), generator=random).split(config.batch):
            reach = config.shift_px
            shift = torch.randint(-reach, reach + 1, [2], generator=random).tolist()
            if len(rows) > 1:  # batch normalization needs two
                yield [torch.roll(images[rows], shift, (2, 3)), labels[rows]]


def num_batches(count: int, config: ClassifierConfig) -> int:
    """Return the number of batches in which `count` images are shown."""
    return config.epochs * math.ceil(count / config.batch)


def train_classifier(
    images: Tensor, labels: Tensor, classes: tuple[str, ...], config: ClassifierConfig | None = None
) -> Iterator[Classifier]:
    """Train a classifier, yielding it after every batch, and at last frozen, in eval mode.

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: class indices, int64 `[N]`.
        classes: names of the classes.
        config: settings.
    """
    config = config or ClassifierConfig()
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = Classifier(images.shape[1], classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-2)
    steps = num_batches(len(images), config)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps + 1)
    for some, wanted in _batches(images, labels, config):
        # Smoothed, or features would grow without limit, and distances with them.
        loss = F.cross_entropy(model.head(model(some)), wanted, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield model
    yield model.eval().requires_grad_(False)
