"""`sg3 dataset`."""

from __future__ import annotations

from collections import Counter

import click

from sg3.cli.options import ParsedType, debug_option
from sg3.errors import UserError


def parse_size(text: str) -> tuple[int, int]:
    """`"256x256"` → (256, 256): width and height in pixels."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"resolution: got {text!r}, expected width and height like 256x256")
    return int(width), int(height)


@click.command()
@click.option("--source", required=True, metavar="DIR|ZIP", help="Pictures, searched recursively.")
@click.option("--dest", required=True, metavar="ZIP|DIR", help="A .zip, or a new folder.")
@click.option("--resolution", type=ParsedType("WxH", parse_size), help="Size, like 256x256.")
@click.option(
    "--transform",
    type=click.Choice(["none", "center-crop", "center-crop-wide"]),
    default="none",
    show_default=True,
    help="How pictures of another shape fit.",
)
@click.option("--max-images", type=click.IntRange(min=1), help="Stop after that many pictures.")
@debug_option
def dataset(**options) -> None:
    """Prepare a data set for training: equal squares, uncompressed PNG, dataset.json.

    \b
    Example:
      sg3 dataset --source photos --dest photos.zip --resolution 256x256 --transform center-crop
    """
    from sg3.data.prepare import prepare_dataset

    kept, dropped = 0, Counter()
    for item in prepare_dataset(**options):
        kept += item.name is not None
        if item.reason is not None:
            dropped["too small" if item.reason == "too small" else "unreadable"] += 1
            click.echo(f"dropped {item.source}: {item.reason}", err=True)
    lost = "".join(f", dropped {count} ({reason})" for reason, count in dropped.items())
    click.echo(f"{options['dest']}: {kept} images{lost}")
