"""Fashion-MNIST: a GAN that learns from nothing, on two CPU cores.

Commands:
  apt-get install dataset-fashion-mnist
  python -m recipes.fashion prepare --outdir data
  python -m recipes.fashion train --data data/fashion-32.zip --outdir runs
  python -m recipes.fashion evaluate --data data --run runs/00000-… --outdir docs
To resume after an interruption, run the same command with --resume latest.

60 000 gray images of clothes, shoes and bags in ten classes (MIT licence), 28×28, padded to 32×32.
`prepare` writes them, the 10 000 test images, and a classifier trained on the former, in whose
features `evaluate` measures Fréchet distances (recipes/learning_curve.py). `train` starts from
random weights, with the discriminator as the only teacher and the settings of `--budget small`
(docs/TRAINING.md). Settings were chosen with distances to the training images in view; the
test images are for the last look (`evaluate --test`).

Hardware: a CPU, one thread.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from recipes.classifier import ClassifierConfig, load_classifier, num_batches, train_classifier
from recipes.learning_curve import NUM, Reference, all_images, chart, judge_network, judge_run
from recipes.run import RecipeCommand, recipe_command, verbatim
from sg3.allocator import keep_large_blocks
from sg3.analysis import charts
from sg3.cli.options import debug_option, option, outdir_option
from sg3.data.prepare import prepare_dataset
from sg3.errors import UserError
from sg3.files import prepare_folder, write_text
from sg3.progress import with_bar
from sg3.settings import replace_settings
from sg3.training import TrainConfig

SOURCE = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package
FILES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
ZIPS = {"train": "fashion-32.zip", "test": "fashion-32-test.zip"}
CLASSIFIER = "fashion-classifier.safetensors"
CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"
)  # fmt: skip


def prepare_zips(source: Path, out: Path) -> None:
    """Write the zips that are missing in `out` from the IDX files in `source`.

    Raises ValueError if a file is missing.
    """
    for name in FILES.values():
        if not (source / name).is_file():
            raise UserError(
                f"source: {source / name}: no such file; install the Debian package "
                "dataset-fashion-mnist, or set `source` to a folder with the IDX files"
            )
    for part, name in FILES.items():
        if not (out / ZIPS[part]).exists():
            for _ in prepare_dataset(source / name, out / ZIPS[part], progress=True):
                pass


def prepare_classifier(out: Path, config: ClassifierConfig | None = None) -> float:
    """Train the classifier on the images in `out`, unless it is there; return its accuracy."""
    path, config = out / CLASSIFIER, config or ClassifierConfig()
    if not path.exists():
        images, labels = all_images(out / ZIPS["train"], labels=True)
        steps = train_classifier(images, labels, CLASSES, config)
        *_, model = with_bar(steps, num_batches(len(images), config), "classifier", True)
        model.save(path, {"trained_on": ZIPS["train"], **asdict(config)})
    images, labels = all_images(out / ZIPS["test"], labels=True)
    return float((load_classifier(path).classify(images)[1] == labels).float().mean())


def config(data: str, outdir: str, cfg: str = "stylegan2", **changes: Any) -> TrainConfig:
    """Return the settings of a run from random weights.

    Args:
        data: `fashion-32.zip`.
        outdir: folder of the runs.
        cfg: configuration of the network.
        changes: other values of settings.

    Raises ValueError for an unknown or invalid change.
    """
    settings = TrainConfig(
        data=data, outdir=outdir, cfg=cfg, budget="small", kimg=1000, tick=4, snap=10, threads=1,
        workers=0, grid=(10, 6),
    )  # fmt: skip
    return replace_settings(settings, changes)


VARIANTS = {"stylegan2": config, "stylegan3-t": partial(config, cfg="stylegan3-t")}


@click.group(help=verbatim(__doc__))
def main() -> None:
    """Run a command."""
    keep_large_blocks()


@main.command(cls=RecipeCommand)
@option("--source", default=str(SOURCE), metavar="DIR", help="Folder of the IDX files.")
@outdir_option
@debug_option
def prepare(source: str, outdir: str) -> None:
    """Write the datasets and train the classifier; what is there already is kept."""
    out = prepare_folder(outdir)
    prepare_zips(Path(source), out)
    accuracy = prepare_classifier(out)
    click.echo(f"{out / CLASSIFIER}: right about {accuracy:.1%} of the test images")


main.add_command(recipe_command(__doc__, VARIANTS), "train")


@main.command(cls=RecipeCommand)
@option("--data", required=True, metavar="DIR", help="Folder written by `prepare`.")
@option(
    "--run", "runs", multiple=True, required=True, metavar="[NAME=]DIR",
    help="Folder of a run, and its name in the chart; may be repeated.",
)  # fmt: skip
@option("--num", type=click.IntRange(min=10), default=NUM, help="Images per snapshot.")
@option(
    "--test", is_flag=True,
    help="Also judge the last snapshots by the test images, which no setting was chosen with.",
)  # fmt: skip
@outdir_option
@debug_option
def evaluate(data: str, runs: tuple[str, ...], num: int, test: bool, outdir: str) -> None:
    """Judge all snapshots of runs; write fashion-curve.json and fashion-curve.png."""
    named = dict(_named(text) for text in runs)
    out, classifier = prepare_folder(outdir), load_classifier(Path(data) / CLASSIFIER)
    reference = Reference.of(classifier, Path(data) / ZIPS["train"])
    click.echo(f"distance between two halves of the real images: {reference.scale:.3f}")
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, folder in named.items():
        curves[name] = []
        for record in judge_run(folder, reference, num):
            click.echo(f"{name}: {json.dumps(record)}")
            curves[name].append(record)
    record = {"scale": round(reference.scale, 4), "num": num, "curves": curves}
    if test:
        unseen = Reference.of(classifier, Path(data) / ZIPS["test"])
        last = {name: named[name] / curve[-1]["snapshot"] for name, curve in curves.items()}
        record["test_scale"] = round(unseen.scale, 4)
        record["test"] = {n: asdict(judge_network(p, unseen, num)) for n, p in last.items()}
        click.echo(json.dumps(record["test"]))
    write_text(out / "fashion-curve.json", json.dumps(record, indent=1) + "\n")
    charts.save_figure(chart(curves, reference.scale), out / "fashion-curve.png")


def _named(text: str) -> tuple[str, Path]:
    """Parse `NAME=DIR`, or `DIR`, whose name is that of the folder."""
    name, sign, folder = text.partition("=")
    path = Path(folder if sign else text)
    if not any(path.glob("network-*.safetensors")):
        raise UserError(f"run: got {path}, expected the folder of a run with snapshots")
    return (name if sign else path.name), path


if __name__ == "__main__":
    main(prog_name="python -m recipes.fashion")
