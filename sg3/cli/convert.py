"""`sg3 convert`."""

from __future__ import annotations

import click

from sg3.cli.options import as_option, debug_option, option, stated_arguments


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False))
@as_option
@option("--fp16", is_flag=True, help="Store weights in half precision, which halves the size.")
@option("--only-ema", is_flag=True, help="Keep only G_ema, which is enough to generate images.")
@debug_option
def convert(source: str, target: str, fp16: bool, only_ema: bool) -> None:
    """Convert network IN (an official .pkl, a .pt, a name or a URL) to the safetensors file OUT.

    Code inside pickles and torch archives is never executed.

    \b
    Examples:
      sg3 convert stylegan3-t-ffhq-1024x1024.pkl ffhq.safetensors --only-ema
      sg3 convert 550000.pt church.safetensors
      sg3 convert G_ema.pt cats.safetensors --as stylegan2,conv_clamp=none
    """
    from pathlib import Path

    import sg3
    from sg3.errors import UserError
    from sg3.files import check_folder

    if not target.endswith(".safetensors"):
        raise UserError(f"{target}: expected a name ending in .safetensors")
    check_folder(Path(target).parent)
    nets = sg3.load(source, as_=stated_arguments(), only_ema=only_ema)
    if only_ema:  # not all readers know the option
        nets = sg3.Networks(G_ema=nets.G_ema, meta=nets.meta)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    sg3.save(nets, target, fp16=fp16)
    size_mb = Path(target).stat().st_size / 1e6
    for part, network in nets.parts().items():
        count = sum(tensor.numel() for tensor in network.state_dict().values())
        click.echo(f"{part}: {network.kind}, {count:,} numbers")
    click.echo(f"{target}: {size_mb:.1f} MB")
