"""Grids of real and generated pictures that show how a run is doing (REFERENCE.md §4.9)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sg3.data.base import TrainingImages
from sg3.files import atomic_path


def choose_grid_items(dataset: TrainingImages, columns: int, rows: int) -> list[int]:
    """Items of the grid, row by row; with labels each row shows one label."""
    random = np.random.RandomState(0)
    if dataset.label_dim == 0:
        order = list(range(len(dataset)))
        random.shuffle(order)
        return [order[i % len(order)] for i in range(columns * rows)]
    groups: dict[tuple, list[int]] = {}
    for item, label in enumerate(dataset.labels(np.arange(len(dataset))).tolist()):
        groups.setdefault(tuple(label[::-1]), []).append(item)
    labels = sorted(groups)
    for label in labels:
        random.shuffle(groups[label])
    items: list[int] = []
    for y in range(rows):
        group = groups[labels[y % len(labels)]]
        items += [group[x % len(group)] for x in range(columns)]
        turn = columns % len(group)
        groups[labels[y % len(labels)]] = group[turn:] + group[:turn]
    return items


def to_bytes(images: torch.Tensor, low: float, high: float) -> np.ndarray:
    """`images` `[N, C, H, W]` from [low, high] to uint8, rounded half to even."""
    images = (images.to(torch.float32) - low) * (255 / (high - low))
    return images.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def save_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """Write uint8 `[N, C, H, W]` as one PNG, `columns` per row; the name appears when done."""
    n, c, h, w = images.shape
    rows = n // columns
    picture = images.reshape(rows, columns, c, h, w).transpose(0, 3, 1, 4, 2)
    picture = picture.reshape(rows * h, columns * w, c)
    picture = picture[:, :, 0] if c == 1 else picture
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


@torch.no_grad()
def render(G: torch.nn.Module, z: torch.Tensor, c: torch.Tensor, batch: int) -> np.ndarray:
    """Images of `G` at constant noise as uint8 `[N, C, H, W]`."""
    images = [
        to_bytes(G(z_part, c_part, noise_mode="const"), -1, 1)
        for z_part, c_part in zip(z.split(batch), c.split(batch), strict=True)
    ]
    return np.concatenate(images)
