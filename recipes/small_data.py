"""Shared parts of the recipes that train small networks from nothing: classifier and evaluation."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

from recipes.classifier import ClassifierConfig, load_classifier, num_batches, train_classifier
from recipes.learning_curve import NUM, Reference, all_images, chart, judge_network, judge_run
from recipes.run import RecipeCommand
from sg3.analysis import charts
from sg3.cli.options import debug_option, option, outdir_option
from sg3.errors import UserError
from sg3.files import prepare_folder, write_text
from sg3.progress import with_bar
from sg3.settings import replace_settings
from sg3.training import TrainConfig


@dataclass(frozen=True)
class SmallData:
    """Files of a dataset with classes, all in one folder.

    Attributes:
        name: start of the names of its files.
        classes: names of the classes.
        has_test: whether there are test images, which no setting is chosen with.
    """

    name: str
    classes: tuple[str, ...]
    has_test: bool = False

    @property
    def train_zip(self) -> str:
        """File name of the training images."""
        return f"{self.name}.zip"

    @property
    def test_zip(self) -> str:
        """File name of the test images."""
        return f"{self.name}-test.zip"

    @property
    def classifier(self) -> str:
        """File name of the classifier."""
        return f"{self.name}-classifier.safetensors"

    def load(self, folder: Path, test: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images in `folder`, uint8 `[N, C, H, W]`, and their classes, int64 `[N]`."""
        return all_images(folder / (self.test_zip if test else self.train_zip), labels=True)

    def train_classifier(self, folder: Path, config: ClassifierConfig | None = None) -> float:
        """Train the classifier in `folder`, unless it is there.

        Returns its accuracy, for the test images if there are some.
        """
        path, config = folder / self.classifier, config or ClassifierConfig()
        if not path.exists():
            images, labels = self.load(folder)
            steps = train_classifier(images, labels, self.classes, config)
            *_, model = with_bar(steps, num_batches(len(images), config) + 1, "classifier", True)
            model.save(path, {"trained_on": self.train_zip, **asdict(config)})
        images, labels = self.load(folder, self.has_test)
        return float((load_classifier(path).classify(images)[1] == labels).float().mean())


def small_config(data: str, outdir: str, cfg: str = "stylegan2", **changes: Any) -> TrainConfig:
    """Return the settings of a run with the small budget on one thread of a CPU.

    Args:
        data: zip of training images.
        outdir: folder of the runs.
        cfg: configuration of the network.
        changes: other values of settings.

    Raises ValueError for an unknown or invalid change.
    """
    settings = TrainConfig(
        data=data, outdir=outdir, cfg=cfg, budget="small", kimg=1000, tick=4, snap=5, threads=1,
        workers=0, grid=(10, 6), device="cpu",
    )  # fmt: skip
    return replace_settings(settings, changes)


def evaluate_command(small: SmallData) -> click.Command:
    """Return the command that judges the snapshots of runs and draws their curves."""

    @click.command("evaluate", cls=RecipeCommand)
    @option("--data", required=True, metavar="DIR", help="Folder written by `prepare`.")
    @option(
        "--run", "runs", multiple=True, required=True, metavar="[NAME=]DIR",
        help="Folder of a run, and its name in the chart; may be repeated.",
    )  # fmt: skip
    @option("--num", type=click.IntRange(min=10), default=NUM, help="Images per snapshot.")
    @option(
        "--every", type=click.IntRange(min=1), default=1,
        help="Judge only each of so many snapshots, and the last.",
    )  # fmt: skip
    @option(
        "--test", is_flag=True,
        help="Also judge the last snapshots by the test images, which no setting was chosen with.",
    )  # fmt: skip
    @option("--name", default=f"{small.name}-curve", metavar="NAME", help="Name of the files.")
    @outdir_option
    @debug_option
    def command(
        data: str,
        runs: tuple[str, ...],
        num: int,
        every: int,
        test: bool,
        name: str,
        outdir: str,
    ) -> None:
        """Judge all snapshots of runs; write NAME.json and NAME.png."""
        named = dict(_named(text) for text in runs)
        if test and not small.has_test:
            raise UserError(f"test: {small.name} has no test images; leave out `test`")
        classifier = load_classifier(Path(data) / small.classifier)
        reference = Reference.of(classifier, Path(data) / small.train_zip)
        click.echo(f"distance between two halves of the real images: {reference.scale:.3f}")
        record = {"scale": round(reference.scale, 4), "num": num}
        record["curves"] = curves = _curves(named, reference, num, every)
        if test:
            unseen = Reference.of(classifier, Path(data) / small.test_zip)
            last = {key: named[key] / curve[-1]["snapshot"] for key, curve in curves.items()}
            record["test_scale"] = round(unseen.scale, 4)
            record["test"] = {k: asdict(judge_network(p, unseen, num)) for k, p in last.items()}
            click.echo(json.dumps(record["test"]))
        out = prepare_folder(outdir)
        write_text(out / f"{name}.json", json.dumps(record, indent=1) + "\n")
        charts.save_figure(chart(curves, reference.scale), out / f"{name}.png")

    return command


def _curves(
    named: dict[str, Path], reference: Reference, num: int, every: int
) -> dict[str, list[dict]]:
    curves: dict[str, list[dict]] = {}
    for name, folder in named.items():
        curves[name] = []
        for record in judge_run(folder, reference, num, every):
            click.echo(f"{name}: {json.dumps(record)}")
            curves[name].append(record)
    return curves


def _named(text: str) -> tuple[str, Path]:
    """Parse `NAME=DIR`, or `DIR`, whose name is that of the folder."""
    name, sign, folder = text.partition("=")
    path = Path(folder if sign else text)
    if not any(path.glob("network-*.safetensors")):
        raise UserError(f"run: got {path}, expected the folder of a run with snapshots")
    return (name if sign else path.name), path
