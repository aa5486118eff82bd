"""`sg3 blend`."""

from __future__ import annotations

import click

from sg3.cli.delta import out_option, save_and_say
from sg3.cli.options import debug_option


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--split", metavar="LAYER", help="B's from this layer on, A's before it.")
@click.option(
    "--width",
    type=float,
    default=0,
    show_default=True,
    metavar="LAYERS",
    help="Change over gradually, over about so many layers.",
)
@click.option("--layers", metavar="NAMES", help="B's where named, like L0-L3,torgb; A's elsewhere.")
@out_option(".safetensors")
@debug_option
def blend(a: str, b: str, split: str | None, width: float, layers: str | None, out: str) -> None:
    """Make one network of A and B, layer by layer; both have the same shape.

    Early layers decide about shapes and pose, late ones about textures and colours. A wrong name
    prints the names that there are.

    \b
    Example:
      sg3 blend mini-faces zombie-net.safetensors --split L3 --width 2 --out half.safetensors
    """
    if (split is None) == (layers is None):
        raise click.UsageError("give either --split or --layers")
    if layers is not None and width:
        raise click.UsageError("--width goes with --split only")
    import sg3
    from sg3.blend import blend as blend_networks
    from sg3.blend import layer_fractions, split_fractions

    first, second = sg3.load(a), sg3.load(b)
    if layers is not None:
        shares = layer_fractions(first.G_ema, layers)
    else:
        shares = split_fractions(first.G_ema, split, width)
    G = blend_networks(first.G_ema, second.G_ema, shares)
    facts = ("name", "source", "sha256", "licence")
    parts = [{k: nets.meta[k] for k in facts if k in nets.meta} for nets in (first, second)]
    meta = {"blend_of": parts, "share_of_the_second": shares}
    licences = dict.fromkeys(part["licence"] for part in parts if "licence" in part)
    meta |= {"licence": " and ".join(licences)} if licences else {}
    save_and_say(sg3.save, sg3.Networks(G_ema=G, meta=meta), out)
    for name, share in shares.items():
        click.echo(f"  {name}: {share:.0%} of {second.meta['name']}")
