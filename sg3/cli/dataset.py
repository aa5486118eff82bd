"""`sg3 dataset`: prepare a dataset from images."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from sg3.cli.options import SIZE, debug_option, option

if TYPE_CHECKING:
    from sg3.data.prepare import Prepared

SHOWN = 20  # dropped files that are listed


@click.command()
@option(
    "--source",
    required=True,
    metavar="DIR|ZIP|FILE",
    help="Folder of images, searched recursively; zip; cifar-10-python.tar.gz; MNIST's "
    "train-images-idx3-ubyte.gz; folder saved by the datasets package.",
)
@option("--dest", required=True, metavar="ZIP|DIR", help="Where to write: a .zip or a new folder.")
@option(
    "--resolution",
    type=SIZE,
    unset="that of the images",
    help="Width and height of the output, like 256x256.",
)
@option(
    "--transform",
    type=click.Choice(["none", "center-crop", "center-crop-wide", "center-crop-tall"]),
    default="none",
    help="How to fit images to --resolution. none: resize; center-crop: crop to its aspect ratio, "
    "then resize; center-crop-wide, center-crop-tall: crop, keeping the full width or height, "
    "resize, then pad to a black square.",
)
@option(
    "--min-size",
    type=int,
    default=0,
    expected="at least 0",
    metavar="PIXELS",
    help="Drop images whose shorter side is smaller.",
)
@option(
    "--labels",
    type=click.Choice(["none", "json", "folders"]),
    unset="json if every image has a label, else none",
    help="json: labels that came with the source, in dataset.json or otherwise; folders: the "
    "first-level sub-folders are the classes. Both drop images without a label.",
)
@option(
    "--mode",
    type=click.Choice(["auto", "rgb", "gray", "rgba"]),
    default="auto",
    help="Color mode. auto: gray if all images are, else rgb. Without alpha, transparent areas "
    "become white.",
)
@option(
    "--format",
    "image_format",
    type=click.Choice(["png", "webp"]),
    default="png",
    help="Image format. png: uncompressed, fastest to read; webp: lossless, RGB only, about half "
    "the size.",
)
@option(
    "--align",
    type=click.Choice(["faces", "faces-unaligned"]),
    unset="the whole image",
    help="Cut out the largest face, found by dlib, or that of --landmarks. faces: upright, as in "
    "FFHQ; faces-unaligned: tilted and moved as in the photograph, as in FFHQ-U.",
)
@option(
    "--landmarks",
    type=click.Path(dir_okay=False),
    metavar="JSON",
    unset="faces are found with dlib: pip install 'sg3[faces]'",
    help="68 points [x, y] per image, by its name, in pixels of the upright photograph; or 5: "
    "eyes, nose, corners of the mouth.",
)
@option(
    "--near-duplicates",
    type=click.Choice(["report", "drop"]),
    unset="not looked for",
    help="Images that look like an earlier one, by a perceptual hash. report: count them; drop: "
    "drop them.",
)
@option(
    "--report",
    type=click.Path(dir_okay=False),
    metavar="HTML",
    unset="no page",
    help="Page to write with the images that were dropped and why.",
)
@option("--overwrite", is_flag=True, help="Replace --dest if it is a zip that exists.")
@option(
    "--max-images",
    type=int,
    unset="all",
    expected="at least 1",
    help="Maximum number of images to read.",
)
@option(
    "--jobs",
    type=int,
    unset="one per CPU core",
    expected="at least 1",
    help="Number of processes.",
)
@debug_option
def dataset(**options) -> None:
    """Prepare a dataset for training: images of one size and mode, and dataset.json.

    Unusable images are dropped and counted. Output is reproducible byte for byte.
    --dest appears once everything is written.

    \b
    Example:
      sg3 generate --seeds 0-9 --outdir photos
      sg3 dataset --source photos --dest photos.zip --resolution 64x64 --transform center-crop
    """
    from tqdm import tqdm

    from sg3.data.prepare import prepare_dataset

    def tell(note: str) -> None:
        tqdm.write(_printable(note), file=sys.stderr)

    summary, bar = _Summary(), sys.stderr.isatty()
    with (
        _terminated_as_interrupted(),
        closing(prepare_dataset(**options, progress=bar, tell=tell)) as prepared,
    ):
        for item in prepared:
            if (line := summary.add(item)) is not None:
                tqdm.write(line, file=sys.stderr)
    for line in summary.notes():
        click.echo(line, err=True)
    click.echo(f"{options['dest']}: {summary.text(options['image_format'])}")


class _Summary:
    """Counts of images kept and dropped."""

    def __init__(self) -> None:
        self.kept = self.labelled = 0
        self.dropped: Counter[str] = Counter()
        self.source_bytes = self.bytes = 0
        self.shape: tuple[int, int, int] | None = None

    def add(self, item: Prepared) -> str | None:
        """Count `item`; return a line to print if it was dropped, for the first few."""
        if item.reason is None:
            self.kept += 1
            self.labelled += item.label is not None
            self.shape = item.shape
            self.source_bytes += item.source_bytes
            self.bytes += item.bytes
            return None
        self.dropped[item.reason] += 1
        if self.dropped.total() > SHOWN:
            return None
        return _printable(f"dropped {item.source}: {item.reason} ({item.detail})")

    def notes(self) -> list[str]:
        """Return lines to print in addition to the counts."""
        notes = []
        if self.dropped.total() > SHOWN:
            notes.append(f"and {self.dropped.total() - SHOWN} more dropped")
        if 0 < self.labelled < self.kept:
            notes.append(
                f"no labels were written: {self.kept - self.labelled} images have none; "
                "--labels json drops those"
            )
        return notes

    def text(self, image_format: str) -> str:
        """Return the summary, one line."""
        from sg3.data.decoding import shape_text

        assert self.shape is not None  # at least one image was kept

        lost = "".join(f", dropped {n} ({reason})" for reason, n in sorted(self.dropped.items()))
        growth = self.bytes / max(self.source_bytes, 1)
        hint = ""
        if image_format == "png" and growth > 2 and self.shape[0] == 3:
            hint = "; --format webp is smaller"
        return (
            f"{self.kept} images{lost}; {shape_text(self.shape)}, {_size_text(self.bytes)} as "
            f"{image_format}, {growth:.1f} times the source's size{hint}"
        )


def _size_text(size: int) -> str:
    """`12_300_000` → `12.3 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"


def _printable(text: str) -> str:
    """Replace control characters: file names may contain any, and a terminal would obey them."""
    return "".join(c if c.isprintable() else "?" for c in text)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Make SIGTERM act like Ctrl-C, so that no unfinished files are left."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
