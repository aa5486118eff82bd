"""How a small generator learns: every snapshot of a run, judged by a small classifier.

- `distance`: Fréchet distance to all real images in the classifier's features.
- `precision`, `recall`: of as many generated as real images, third neighbour, same features.
- `class_entropy`: of the predicted classes, as a fraction of the uniform distribution's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sg3
from recipes.classifier import Classifier
from sg3.analysis import charts
from sg3.data import ImageDataset
from sg3.metrics import frechet_distance
from sg3.metrics.precision_recall import precision_recall
from sg3.metrics.sampling import generated_images
from sg3.training.progress_page import read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM = 10000
NEIGHBOUR = 3


@dataclass(frozen=True)
class Judgement:
    """What the classifier says of a set of images; see the module's text."""

    distance: float
    precision: float
    recall: float
    class_entropy: float


@dataclass(frozen=True)
class Reference:
    """Real images as the classifier sees them.

    Attributes:
        classifier: the classifier.
        features: float32 `[N, dim]`, in random order.
        scale: distance between two halves.
    """

    classifier: Classifier
    features: torch.Tensor
    scale: float

    @classmethod
    def of(cls, classifier: Classifier, data: str | Path, seed: int = 0) -> Reference:
        """Classify all images of the zip or folder `data`."""
        images, _ = all_images(data)
        features = classifier.classify(images)[0]
        random = torch.Generator().manual_seed(seed)
        features = features[torch.randperm(len(features), generator=random)]
        middle = len(features) // 2
        scale = distance_between(features[:middle], features[middle:])
        return cls(classifier, features, scale)

    def judge(self, images: torch.Tensor) -> Judgement:
        """Judge uint8 images `[N, C, H, W]`."""
        features, classes = self.classifier.classify(images)
        count = min(len(features), len(self.features))
        precision, recall = precision_recall(
            self.features[:count], features[:count], neighbour=NEIGHBOUR
        )
        return Judgement(
            distance=round(distance_between(features, self.features), 3),
            precision=round(precision, 4),
            recall=round(recall, 4),
            class_entropy=round(entropy(classes, len(self.classifier.classes)), 4),
        )


def all_images(data: str | Path, labels: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images uint8 `[N, C, H, W]`, and their classes, int64 `[N]`, if `labels`."""
    dataset = ImageDataset(str(data), use_labels=labels)
    items = np.arange(len(dataset))
    classes = dataset.labels(items).argmax(1) if labels else torch.zeros(0, dtype=torch.int64)
    return dataset.images(items), classes


def distance_between(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the Fréchet distance between two sets of features `[N, dim]`."""
    return frechet_distance(first.double().numpy(), second.double().numpy())


def entropy(classes: torch.Tensor, num_classes: int) -> float:
    """Return the entropy of class indices `[N]` as a fraction of ln `num_classes`."""
    p = torch.bincount(classes, minlength=num_classes).double() / len(classes)
    return float(-(p * p.clamp(min=1e-12).log()).sum() / np.log(num_classes))


def judge_network(path: str | Path, reference: Reference, num: int = NUM) -> Judgement:
    """Judge `num` images of a network without labels, at truncation 1."""
    G = sg3.load(path).G_ema
    return reference.judge(torch.cat([part for _, part in generated_images(G, None, num)]))


def judge_run(
    run: Path, reference: Reference, num: int = NUM, every: int = 1
) -> Iterator[dict[str, Any]]:
    """Judge the snapshots of a run, in order; yields a record with "kimg" for each.

    Args:
        run: folder of the run.
        reference: real images.
        num: images per snapshot.
        every: judge only each `every`-th snapshot, and the last.

    Records are kept in `curve.jsonl` in the run's folder, and snapshots judged before are not
    judged again.
    """
    path = run / "curve.jsonl"
    known = {record["snapshot"]: record for record in read_jsonl(path)} if path.exists() else {}
    snapshots = sorted(run.glob("network-*.safetensors"))
    for snapshot in [*snapshots[:-1:every], *snapshots[-1:]]:
        record = known.get(snapshot.name)
        if record is None or record["num"] != num:
            found = asdict(judge_network(snapshot, reference, num))
            kimg = sg3.load(snapshot).meta["kimg"]
            record = {"snapshot": snapshot.name, "kimg": kimg, "num": num, **found}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        yield record


PANELS = {
    "distance": "Fréchet distance", "recall": "recall", "class_entropy": "entropy of classes"
}  # fmt: skip


def chart(curves: dict[str, Sequence[dict[str, Any]]], scale: float) -> Figure:
    """Plot the records of several runs by name; `scale` is the distance between real halves."""
    figure = charts.new_figure(3.2 * len(PANELS), 2.6)
    for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        charts.style_axes(axes, title, xlabel="kimg")
        for color, (name, records) in zip(charts.COLORS[1:], curves.items(), strict=False):
            points = [(record["kimg"], record[key]) for record in records]
            axes.plot(*zip(*points, strict=True), color=color, label=name, linewidth=1.2)
        if key == "distance":
            axes.set_yscale("log")
            axes.axhline(scale, color=charts.COLORS[0], linewidth=0.8, linestyle=":")
        else:
            axes.set_ylim(0, 1)
    charts.add_legend(figure.axes[0])
    return figure
