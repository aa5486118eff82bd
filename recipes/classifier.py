"""A small image classifier, in whose features and classes small generators are judged.

Fréchet distances in its features are comparable only among generators that the same classifier
judged: report the distance between two halves of the real images beside them, which is the scale.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sg3.errors import UserError
from sg3.settings import check_settings, documented, setting

FORMAT = "sg3-small-classifier"


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
    """Three strided stages of 3×3 convolutions, 64 features, one linear layer of classes."""

    def __init__(self, channels: int, classes: tuple[str, ...], dim: int = 64) -> None:
        super().__init__()
        self.channels, self.classes, self.dim = channels, classes, dim
        self.name = "classifier"
        stages: list[nn.Module] = []
        width = channels
        for outputs in (24, 48, 96):
            stages += [
                nn.Conv2d(width, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            width = outputs
        self.stages = nn.Sequential(*stages)
        self.project = nn.Linear(width * 16, dim)
        self.head = nn.Linear(dim, len(classes))

    def features(self, images: Tensor) -> Tensor:
        """Map uint8 or float images `[N, C, H, W]` in 0 to 255 to features `[N, dim]`."""
        x = self.stages(images.float() / 127.5 - 1)
        return F.relu(self.project(F.adaptive_avg_pool2d(x, 4).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images as for `features` to logits `[N, classes]`."""
        return self.head(self.features(images))

    @torch.no_grad()
    def classify(self, images: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
        """Return features `[N, dim]` and predicted classes, int64 `[N]`, of uint8 `images`."""
        features = torch.cat([self.features(part) for part in images.split(batch)])
        return features, self.head(features).argmax(1)


def _batches(images: Tensor, labels: Tensor, config: ClassifierConfig) -> Iterator[list[Tensor]]:
    random = torch.Generator().manual_seed(config.seed)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(images), generator=random).split(config.batch):
            if len(rows) < 2:  # batch normalization needs two
                continue
            dy, dx = torch.randint(-config.shift_px, config.shift_px + 1, [2], generator=random)
            yield [torch.roll(images[rows], (int(dy), int(dx)), (2, 3)), labels[rows]]


def train_classifier(
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    config: ClassifierConfig | None = None,
) -> Iterator[Classifier]:
    """Train a classifier, yielding it after every batch; the last one is in eval mode.

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: class indices, int64 `[N]`.
        classes: names of the classes.
        config: settings.
    """
    config = config or ClassifierConfig()
    steps = config.epochs * math.ceil(len(images) / config.batch)
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = Classifier(images.shape[1], classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps + 1)
    for some, wanted in _batches(images, labels, config):
        loss = F.cross_entropy(model(some), wanted, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield model
    model.eval().requires_grad_(False)
    yield model
