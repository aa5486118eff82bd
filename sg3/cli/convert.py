"""`sg3 convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sg3.cli.options import argument, as_option, debug_option, load_options, option
from sg3.errors import UserError

if TYPE_CHECKING:
    from sg3.checkpoints import Networks

SUFFIXES = {"sg3": ".safetensors", "official": ".pt", "rosinality": ".pt"}


@click.command()
@argument("source", metavar="IN")
@argument("target", metavar="OUT", type=click.Path(dir_okay=False))
@option(
    "--layout",
    type=click.Choice(list(SUFFIXES)),
    default="sg3",
    help="Whose layout: ours (.safetensors); the official code's, for a script that pickles it "
    "there (.pt, docs/EXPORT.md); or rosinality's StyleGAN2 (.pt), as StyleGAN-NADA reads it.",
)
@as_option
@option("--fp16", is_flag=True, help="Store weights in half precision, which halves the size.")
@option("--only-ema", is_flag=True, help="Keep only G_ema, which is enough to generate images.")
@debug_option
def convert(source: str, target: str, layout: str, fp16: bool, only_ema: bool) -> None:
    """Convert network IN (an official .pkl, a .pt, a name or a URL) to the file OUT.

    Code inside pickles and torch archives is never executed.

    \b
    Examples:
      sg3 convert stylegan3-t-ffhq-1024x1024.pkl ffhq.safetensors --only-ema
      sg3 convert 550000.pt church.safetensors
      sg3 convert G_ema.pt cats.safetensors --as stylegan2,conv_clamp=none
      sg3 convert mini-faces mini-faces.pt --layout official
    """
    import sg3
    from sg3.files import check_folder

    if not target.endswith(SUFFIXES[layout]):
        raise UserError(f"{target}: expected a name ending in {SUFFIXES[layout]}")
    if fp16 and layout != "sg3":
        raise UserError(f"fp16: the {layout} layout stores float32; leave --fp16 out")
    check_folder(Path(target).parent)
    nets = sg3.load(source, only_ema=only_ema, **load_options())
    if only_ema:  # not all readers know the option
        nets = sg3.Networks(G_ema=nets.G_ema, meta=nets.meta)
    for note in _save(nets, target, layout, fp16):
        click.echo(f"Note: {note}", err=True)
    size_mb = Path(target).stat().st_size / 1e6
    for part, network in nets.parts().items():
        if layout == "rosinality" and part != "G_ema":
            continue
        count = sum(tensor.numel() for tensor in network.state_dict().values())
        click.echo(f"{part}: {network.kind}, {count:,} numbers")
    click.echo(f"{target}: {size_mb:.1f} MB")


def _save(nets: Networks, target: str, layout: str, fp16: bool) -> list[str]:
    """Write `nets`, and return notes on what differs."""
    import sg3
    from sg3.export.official import official_content
    from sg3.export.rosinality import rosinality_content
    from sg3.files import write_archive

    # Everything is checked before the folder is made.
    made = {"official": official_content, "rosinality": rosinality_content}
    content, notes = made[layout](nets) if layout in made else (None, [])
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        sg3.save(nets, target, fp16=fp16)
    else:
        write_archive(target, content)
    return notes
