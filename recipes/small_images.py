"""Emoji: transfer learning on a small colour set, on two CPU cores.

Commands:
  npm pack emoji-datasource-google@16.0.0
  npm pack emoji-datasource-twitter@16.0.0
  python -m recipes.small_images prepare --source emoji-datasource-google-16.0.0.tgz \\
    --source emoji-datasource-twitter-16.0.0.tgz --outdir data
  python -m recipes.small_images train --data data/emoji-32.zip --outdir runs
  python -m recipes.small_images train --data data/emoji-32.zip --outdir runs --resume fashion-32
  python -m recipes.small_images evaluate --data data --outdir docs \\
    --run nothing=runs/00000-… --run transfer=runs/00001-…
To resume after an interruption, run the first command with --resume latest.

The packages hold the Noto images of Google (Apache-2.0) and Twemoji (CC BY 4.0; attribute them to
Twitter and other contributors), 64×64, with names, which `prepare` writes as captions, and
categories, which are the classes of the classifier. Skin tones are left out: they would be half of
the images. `train` uses adaptive augmentation, as there are few images.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click

from recipes.classifier import ClassifierConfig
from recipes.run import RecipeCommand, recipe_command, verbatim
from recipes.small_data import SmallData, evaluate_command, small_config
from sg3.allocator import keep_large_blocks
from sg3.cli.options import debug_option, option, outdir_option
from sg3.data.prepare import prepare_dataset
from sg3.errors import UserError
from sg3.files import prepare_folder, write_text

CATEGORIES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body",
    "Smileys & Emotion", "Symbols", "Travel & Places",
)  # fmt: skip
EMOJI = SmallData("emoji-32", CATEGORIES)
CAPTIONS = "emoji-32-captions.json"
SIDE_PX = 32
MAX_MEMBER = 4 << 20  # bytes; emoji.json has 1.6 MiB
#: There are few images: many passes over them.
CLASSIFIER = ClassifierConfig(epochs=40)

config = partial(small_config, aug="ada", kimg=200)
VARIANTS = {"stylegan2": config, "stylegan3-t": partial(config, cfg="stylegan3-t")}


def check_package(package: Path) -> None:
    """Raise ValueError unless `package` is an archive with a list of emoji."""
    try:
        with tarfile.open(package) as archive:
            archive.getmember("package/emoji.json")
    except FileNotFoundError:
        raise UserError(f"source: {package}: no such file; get it with: npm pack") from None
    except (tarfile.TarError, KeyError, OSError):
        raise UserError(
            f"source: {package} is not a package emoji-datasource-…; get one with: "
            "npm pack emoji-datasource-google"
        ) from None


def unpack(package: Path, folder: Path) -> dict[str, str]:
    """Write the images of a package `emoji-datasource-…` to sub-folders by category.

    Returns captions by file name relative to `folder`. Raises ValueError for another file.
    """
    check_package(package)
    vendor, captions = package.name.split("-")[2], {}
    with tarfile.open(package) as archive:
        for emoji in json.loads(_read(archive, "package/emoji.json")):
            if not emoji.get(f"has_img_{vendor}") or emoji["category"] not in CATEGORIES:
                continue
            name = f"{emoji['category']}/{vendor}-{Path(emoji['image']).name}"
            data = _read(archive, f"package/img/{vendor}/64/{Path(emoji['image']).name}")
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            captions[name] = emoji["name"].lower()
    return captions


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.getmember(name)
    file = archive.extractfile(member)
    if file is None or member.size > MAX_MEMBER:
        raise UserError(f"source: {name} is not a file of at most {MAX_MEMBER} bytes")
    return file.read()


def prepare_zip(packages: tuple[Path, ...], out: Path) -> int:
    """Write `emoji-32.zip` and its captions in `out`, unless they are there.

    Returns the number of images. Raises ValueError for other files than the packages.
    """
    if (out / CAPTIONS).exists():
        return len(json.loads((out / CAPTIONS).read_text()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found: dict[str, str] = {}
        for package in packages:
            found |= unpack(package, folder)
        options: dict[str, Any] = {"labels": "folders", "mode": "rgb", "progress": True}
        dest, size = out / EMOJI.train_zip, (SIDE_PX, SIDE_PX)
        captions = {
            item.name: found[item.source]
            for item in prepare_dataset(folder, dest, size, **options)
            if item.name
        }
    write_text(out / CAPTIONS, json.dumps(captions, indent=0) + "\n")
    return len(captions)


@click.group(help=verbatim(__doc__))
def main() -> None:
    """Run a command."""
    keep_large_blocks()


@main.command(cls=RecipeCommand)
@option(
    "--source", multiple=True, required=True, metavar="TGZ",
    help="Package emoji-datasource-google or -twitter, from npm pack; may be repeated.",
)  # fmt: skip
@outdir_option
@debug_option
def prepare(source: tuple[str, ...], outdir: str) -> None:
    """Write dataset, captions and classifier; what is there already is kept."""
    packages, out = tuple(map(Path, source)), Path(outdir)
    for package in packages:
        check_package(package)
    count = prepare_zip(packages, prepare_folder(out))
    click.echo(f"{out / EMOJI.train_zip}: {count} images")
    accuracy = EMOJI.train_classifier(out, CLASSIFIER)
    click.echo(f"{out / EMOJI.classifier}: right about {accuracy:.1%} of the training images")


main.add_command(recipe_command(__doc__, VARIANTS), "train")
main.add_command(evaluate_command(EMOJI))

if __name__ == "__main__":
    main(prog_name="python -m recipes.small_images")
