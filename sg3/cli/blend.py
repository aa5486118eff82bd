"""`sg3 blend`."""

from __future__ import annotations

from typing import Any

import click

from sg3.cli.delta import out_option, save_and_report
from sg3.cli.options import argument, as_option, debug_option, load_options, option


@click.command()
@argument("a", metavar="A")
@argument("b", metavar="B")
@option(
    "--split",
    metavar="LAYER",
    help="Take this layer and all later ones from B, earlier ones from A.",
    unset="none; give either --split or --layers",
)
@option(
    "--width",
    type=float,
    default=0,
    metavar="LAYERS",
    help="With --split: blend gradually over about this many layers.",
)
@option(
    "--layers",
    metavar="NAMES",
    help="Take these layers from B, like L0-L3,torgb, the others from A.",
    unset="none; give either --split or --layers",
)
@as_option
@out_option(".safetensors")
@debug_option
def blend(a: str, b: str, split: str | None, width: float, layers: str | None, out: str) -> None:
    """Combine layers of two networks A and B of the same shape into one network.

    Early layers determine shapes and pose, late ones textures and colours. An unknown layer name
    lists the known ones.

    \b
    Examples:
      sg3 blend mini-faces zombie-net.safetensors --split L3 --width 2 --out half.safetensors
      sg3 blend mini-faces zombie-net.safetensors --layers L0-L3,torgb --out parts.safetensors
    """
    if (split is None) == (layers is None):
        raise click.UsageError("give either --split or --layers")
    if layers is not None and width:
        raise click.UsageError("--width requires --split")
    import sg3
    from sg3.blend import blend as blend_networks
    from sg3.blend import layer_fractions, split_fractions

    first, second = (sg3.load(file, only_ema=True, **load_options()) for file in (a, b))
    if layers is not None:
        fractions = layer_fractions(first.G_ema, layers)
    else:
        fractions = split_fractions(first.G_ema, split or "", width)
    G = blend_networks(first.G_ema, second.G_ema, fractions)
    facts = ("name", "source", "sha256", "licence")
    parts = [{k: nets.meta[k] for k in facts if k in nets.meta} for nets in (first, second)]
    meta: dict[str, Any] = {"blend_of": parts, "share_of_the_second": fractions}
    licences = dict.fromkeys(part["licence"] for part in parts if "licence" in part)
    meta |= {"licence": " and ".join(licences)} if licences else {}
    save_and_report(sg3.save, sg3.Networks(G_ema=G, meta=meta), out)
    for name, fraction in fractions.items():
        click.echo(f"  {name}: {fraction:.0%} of {second.meta['name']}")
