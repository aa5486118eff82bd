"""Fashion-MNIST: a GAN that learns from nothing, on two CPU cores.

Commands:
  apt-get install dataset-fashion-mnist
  python -m recipes.fashion prepare --outdir data
  python -m recipes.fashion train --data data/fashion-32.zip --outdir runs
  python -m recipes.fashion train --data data/fashion-32.zip --outdir runs --variant stylegan3-t
  python -m recipes.fashion evaluate --data data --run runs/00000-… --outdir docs
  python -m recipes.fashion bundle --run runs/00000-…
To resume after an interruption, run the same command with --resume latest.

60 000 gray images of clothes, shoes and bags in ten classes (MIT licence), 28×28, padded to 32×32.
`prepare` writes them, the 10 000 test images, and a classifier trained on the former, in whose
features `evaluate` measures Fréchet distances (recipes/learning_curve.py). `train` starts from
random weights, with the discriminator as the only teacher and the settings of `--budget small`
(docs/TRAINING.md). Settings were chosen with distances to the training images in view; the
test images are for the last look (`evaluate --test`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import click

import sg3
from recipes.minifaces.provenance import git_commit
from recipes.run import RecipeCommand, recipe_command, verbatim
from recipes.small_data import SmallData, evaluate_command, small_config
from sg3.allocator import keep_large_blocks
from sg3.checkpoints.registry import BUNDLED_LICENCE
from sg3.cli.options import debug_option, option, outdir_option
from sg3.data.prepare import prepare_dataset
from sg3.errors import UserError
from sg3.files import prepare_folder

ASSETS = Path(sg3.__file__).parent / "assets"
SOURCE = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package
FASHION = SmallData(
    "fashion-32",
    ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
     "boot"),
    has_test=True,
)  # fmt: skip
FILES = {
    FASHION.train_zip: "train-images-idx3-ubyte.gz",
    FASHION.test_zip: "t10k-images-idx3-ubyte.gz",
}

#: No augmentation: 60 000 images are many for networks of this size.
config = partial(small_config, aug="noaug")
VARIANTS = {"stylegan2": config, "stylegan3-t": partial(config, cfg="stylegan3-t")}


def check_source(source: Path) -> None:
    """Raise ValueError if a file of the dataset is missing in `source`."""
    for name in FILES.values():
        if not (source / name).is_file():
            raise UserError(
                f"source: {source / name}: no such file; install the Debian package "
                "dataset-fashion-mnist, or set `source` to a folder with the IDX files"
            )


def prepare_zips(source: Path, out: Path) -> None:
    """Write the zips that are missing in `out` from the IDX files in `source`."""
    for zip_name, name in FILES.items():
        if not (out / zip_name).exists():
            for _ in prepare_dataset(source / name, out / zip_name, progress=True):
                pass


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
    check_source(Path(source))
    out = prepare_folder(outdir)
    prepare_zips(Path(source), out)
    accuracy = FASHION.train_classifier(out)
    click.echo(f"{out / FASHION.classifier}: right about {accuracy:.1%} of the test images")


@main.command(cls=RecipeCommand)
@option("--run", required=True, metavar="DIR|FILE", help="Folder of a run, or a snapshot.")
@option("--out", default=str(ASSETS / "fashion-32.safetensors"), metavar="FILE", help="Output.")
@debug_option
def bundle(run: str, out: str) -> None:
    """Write G, D and G_ema in half precision, as the bundled network is."""
    networks = sg3.load(run)
    about = {
        "name": "fashion-32",
        "licence": BUNDLED_LICENCE,
        "recipe": "python -m recipes.fashion train",
        "commit": git_commit(short=True),
    }
    local = ("sha256", "path", "name", "source")
    meta = {k: v for k, v in networks.meta.items() if k not in local}
    sg3.save(replace(networks, meta={**meta, **about}), out, fp16=True)
    click.echo(f"{out}: {Path(out).stat().st_size / 1e6:.2f} MB")


main.add_command(recipe_command(__doc__, VARIANTS), "train")
main.add_command(evaluate_command(FASHION))

if __name__ == "__main__":
    main(prog_name="python -m recipes.fashion")
