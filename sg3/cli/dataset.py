"""`sg3 dataset`: a thin drain on `sg3.data.prepare`."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from sg3.cli.options import SIZE, debug_option

if TYPE_CHECKING:
    from sg3.data.prepare import Prepared

SHOWN = 20  # dropped files that get a line
COUNT = click.IntRange(min=1)


@click.command()
@click.option(
    "--source",
    required=True,
    metavar="DIR|ZIP|FILE",
    help="Pictures, searched recursively; a zip; cifar-10-python.tar.gz; MNIST's "
    "train-images-idx3-ubyte.gz; a folder saved by the package datasets.",
)
@click.option("--dest", required=True, metavar="ZIP|DIR", help="A .zip, or a new folder.")
@click.option("--resolution", type=SIZE, help="Size, like 256x256.")
@click.option(
    "--transform",
    type=click.Choice(["none", "center-crop", "center-crop-wide", "center-crop-tall"]),
    default="none",
    show_default=True,
    help="How pictures of another shape fit: resized; central part of the shape of --resolution; "
    "full width (height) at that shape, on a black square.",
)
@click.option(
    "--min-size",
    type=click.IntRange(min=0),
    default=0,
    metavar="PIXELS",
    help="Drop pictures whose shorter side is below.",
)
@click.option(
    "--labels",
    type=click.Choice(["none", "json", "folders"]),
    help="json: those that came with the source, in dataset.json or otherwise (default, if every "
    "picture has one); folders: the first-level sub-folders.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "rgb", "gray", "rgba"]),
    default="auto",
    show_default=True,
    help="auto: gray if all pictures are, else rgb. Transparent parts become white.",
)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["png", "webp"]),
    default="png",
    show_default=True,
    help="png: not compressed, reads fastest; webp: lossless, RGB only, about half as large.",
)
@click.option("--max-images", type=COUNT, help="Look at that many pictures only.")
@click.option("--jobs", type=COUNT, help="Processes; all cores by default.")
@debug_option
def dataset(**options) -> None:
    """Prepare a data set for training: equal pictures and dataset.json.

    Damaged and unfit files are dropped and counted. The same command writes the same bytes;
    nothing appears at --dest before everything is there.

    \b
    Example:
      sg3 dataset --source photos --dest photos.zip --resolution 256x256 --transform center-crop
    """
    from tqdm import tqdm

    from sg3.data.prepare import prepare_dataset

    summary = _Summary()
    with (
        _terminated_as_interrupted(),
        closing(prepare_dataset(**options)) as prepared,
        tqdm(unit="img", disable=not sys.stderr.isatty()) as bar,
    ):
        for item in prepared:
            bar.total = item.total
            bar.update()
            if (line := summary.add(item)) is not None:
                tqdm.write(line, file=sys.stderr)
    for line in summary.notes():
        click.echo(line, err=True)
    click.echo(f"{options['dest']}: {summary.text(options['image_format'])}")


class _Summary:
    """Counts what was kept and what was dropped."""

    def __init__(self):
        self.kept, self.labelled, self.dropped = 0, 0, Counter()
        self.source_bytes = self.bytes = 0
        self.shape: tuple[int, int, int] | None = None

    def add(self, item: Prepared) -> str | None:
        """Count `item`; a line for people if it was dropped and they saw few such lines yet."""
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
        """What people should know beside the counts."""
        notes = []
        if self.dropped.total() > SHOWN:
            notes.append(f"and {self.dropped.total() - SHOWN} more dropped")
        if 0 < self.labelled < self.kept:
            notes.append(
                f"no labels were written: {self.kept - self.labelled} pictures have none; "
                "--labels json drops these"
            )
        return notes

    def text(self, image_format: str) -> str:
        """One line."""
        from sg3.data.source import shape_text

        lost = "".join(f", dropped {n} ({reason})" for reason, n in sorted(self.dropped.items()))
        growth = self.bytes / max(self.source_bytes, 1)
        hint = ""
        if image_format == "png" and growth > 2 and self.shape[0] == 3:
            hint = "; --format webp takes less"
        return (
            f"{self.kept} images{lost}; {shape_text(self.shape)}, {_size_text(self.bytes)} as "
            f"{image_format}, {growth:.1f} times the source's files{hint}"
        )


def _size_text(size: int) -> str:
    """`12_300_000` → `12.3 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"


def _printable(text: str) -> str:
    """File names may hold anything; a terminal must not obey it."""
    return "".join(c if c.isprintable() else "?" for c in text)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that nothing unfinished stays on the disk."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
