"""The judge: an attribute classifier for measurements, independent of the encoders.

It has another architecture (residual, strided), no text, other training identities and other
augmentation than the encoders, and no model is optimized against it. Fréchet distances between sets
of images are computed in its features.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from guidance.encoders.mini_vocabulary import CLASSES
from recipes.minifaces.world.captions import Mentions

FORMAT = "sg3-minifaces-judge"
ASSET = Path(__file__).parent / "assets" / "judge.safetensors"
FEATURES = 192


class _Block(nn.Module):
    """Two 3×3 convolutions with a 1×1 shortcut; halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + self.shortcut(F.avg_pool2d(x, 2)))


class Judge(nn.Module):
    """Classifier from images [N, 3, H, W] in [-1, 1] to logits of attributes, domain and style."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.blocks = nn.Sequential(_Block(24, 56), _Block(56, 112), _Block(112, 160))
        self.squeeze = nn.Conv2d(160, 48, 1)
        self.project = nn.Linear(48 * 16 + 160, FEATURES)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(FEATURES, len(v)) for name, v in CLASSES.items()}
        )
        self.provenance: dict = {}

    def features(self, img: Tensor) -> Tensor:
        """Return features [N, 192] of `img` [N, 3, H, W] in [-1, 1], of any size."""
        if img.shape[-2:] != (64, 64):
            img = F.interpolate(
                img, size=(64, 64), mode="bilinear", antialias=True, align_corners=False
            )
        x = self.blocks(self.stem(img))
        places = F.relu(self.squeeze(x)).flatten(1)
        return F.relu(self.project(torch.cat([places, x.mean((2, 3))], 1)))

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """Return logits [N, classes] by name."""
        found = self.features(img)
        return {name: head(found) for name, head in self.heads.items()}

    @torch.no_grad()
    def classify(self, img: Tensor, batch: int = 256) -> dict[str, Tensor]:
        """Return class indices, int64 [N], by name."""
        parts = [{k: v.argmax(1) for k, v in self(x).items()} for x in img.split(batch)]
        return {name: torch.cat([p[name] for p in parts]) for name in CLASSES}

    def read(self, img: Tensor) -> list[Mentions]:
        """Return attribute → value for each image; values of hidden attributes are guesses."""
        found = self.classify(img)
        return [
            {name: CLASSES[name][int(found[name][i])] for name in CLASSES} for i in range(len(img))
        ]

    def save(self, path: str | os.PathLike[str], provenance: dict) -> None:
        """Write a safetensors file with fp16 weights, atomically."""
        tensors = {
            k: (t.half() if t.is_floating_point() else t).contiguous().cpu()
            for k, t in self.state_dict().items()
        }
        metadata = {
            "format": FORMAT,
            "classes": json.dumps(CLASSES),
            "provenance": json.dumps(provenance),
        }
        temporary = f"{os.fspath(path)}.partial"
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)


def load_judge(path: str | os.PathLike[str] = ASSET, device: torch.device | str = "cpu") -> Judge:
    """Load a judge, by default the bundled one, in eval mode.

    Raises ValueError if the file holds another kind of model or other classes.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT or json.loads(metadata["classes"]) != json.loads(
        json.dumps(CLASSES)
    ):
        raise ValueError(
            f"judge: got {path}, expected a judge with the classes of this version; "
            "train one with: python -m recipes.minifaces.judge.train"
        )
    judge = Judge()
    judge.load_state_dict(
        {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    )
    judge.provenance = json.loads(metadata["provenance"])
    return judge.eval().requires_grad_(False).to(device)


@torch.no_grad()
def collect_features(judge: Judge, img: Tensor, batch: int = 256) -> np.ndarray:
    """Return features, float64 [N, 192], of images [N, 3, H, W] in [-1, 1]."""
    return torch.cat([judge.features(x) for x in img.split(batch)]).double().numpy()
