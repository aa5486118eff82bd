"""An encoder that sees colour, and a tiny network, for tests of steering."""

from __future__ import annotations

import repository
import torch
import torch.nn.functional as F

GOLDEN = repository.GOLDEN
COLOURS = {"red": [1.0, -1, -1, 0], "blue": [-1.0, -1, 1, 0], "grey": [0, 0, 0, 1.0]}
QUICK = {
    "steps": 12, "candidates": 4, "cutouts": 1, "augment": "none", "lr": 0.15,
    "keep": 0, "truncation": 0.7, "generations": 0,
}  # fmt: skip


class Colour:
    """Mean colour as the embedding; texts name a colour."""

    name, input_size_px, embed_dim = "colour", 32, 4
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self):
        self.texts_seen = []

    def encode_images(self, img):
        means = img.mean(dim=(2, 3))
        return F.normalize(torch.cat([means, torch.full_like(means[:, :1], 0.5)], dim=1), dim=1)

    def encode_texts(self, texts):
        self.texts_seen += texts
        table = [COLOURS[next(c for c in COLOURS if c in text)] for text in texts]
        return F.normalize(torch.tensor(table), dim=1)


def last(steps):
    *_, step = steps
    return step


def redness(image):
    means = image.mean(dim=(0, 2, 3))
    return (means[0] - means[1:].mean()).item()
