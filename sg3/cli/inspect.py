"""`sg3 inspect`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from sg3.cli.options import (
    VEC2,
    ParsedType,
    debug_option,
    delta_option,
    device_option,
    network_option,
    resolve_device,
    seed_option,
    with_deltas,
)
from sg3.errors import UserError


def parse_channels(text: str) -> list:
    """`"0-2,0+1+2,all"` → `[0, 1, 2, (0, 1, 2), "all"]`. Raises UserError otherwise."""
    channels: list = []
    for part in text.replace(" ", "").split(","):
        if part == "all":
            channels.append(part)
        elif re.fullmatch(r"\d{1,5}\+\d{1,5}\+\d{1,5}", part):
            channels.append(tuple(int(number) for number in part.split("+")))
        elif match := re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part):
            channels.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
        else:
            raise UserError(f"got {text!r}, expected channels like 0-3, 0+1+2 (colours) or all")
    if not channels:
        raise UserError(f"got {text!r}, expected at least one channel like 0-3")
    return channels


@click.command()
@network_option
@delta_option
@seed_option
@click.option(
    "--latent",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The first of saved latents (safetensors, tensor 'ws') instead of a seed.",
)
@click.option("--force", is_flag=True, help="Take a latent of another network of the same shape.")
@click.option("--trunc", type=float, default=1, show_default=True, help="Truncation psi.")
@click.option("--class", "class_index", type=int, metavar="INDEX", help="Class, if conditional.")
@click.option("--list", "list_only", is_flag=True, help="Print the layers and write nothing.")
@click.option(
    "--layers",
    type=ParsedType("NAMES", lambda text: [name.strip() for name in text.split(",")]),
    help="Like features,L3,output; all if left out.",
)
@click.option(
    "--channels",
    type=ParsedType("CHANNELS", parse_channels),
    default="0-3,0+1+2",
    show_default=True,
    help="Numbers and ranges in grey, three with + in colour, all in spectra; what a layer lacks "
    "is left out.",
)
@click.option(
    "--domain", type=click.Choice(["space", "spectrum"]), default="space", show_default=True
)
@click.option(
    "--raw", is_flag=True, help="Values as they are, not over each channel's largest magnitude."
)
@click.option("--gain", type=float, default=0, show_default=True, help="Of values, in decibels.")
@click.option(
    "--range",
    "range_db",
    type=click.FloatRange(0, min_open=True),
    default=50,
    show_default=True,
    help="Of spectra, decibels around their mean.",
)
@click.option(
    "--beta", type=click.FloatRange(0), default=8, show_default=True, help="Of spectra's window."
)
@click.option("--translate", type=VEC2, default="0,0", show_default=True, metavar="X,Y")
@click.option("--rotate", type=float, default=0, show_default=True, metavar="DEG")
@click.option(
    "--motion",
    type=click.Choice(["shift", "circle", "turn", "both"]),
    default="circle",
    show_default=True,
    help="Of the input, where a film is written.",
)
@click.option("--amount", type=click.FloatRange(0, 10), default=0.1, show_default=True)
@click.option("--frames", type=click.IntRange(1), default=120, show_default=True)
@click.option("--fps", type=click.FloatRange(0, min_open=True), default=30, show_default=True)
@click.option("--columns", type=click.IntRange(1), help="Of the sheet; one row per layer if not.")
@click.option(
    "--size", type=click.IntRange(16, 4096), default=128, show_default=True, help="Pixels of each."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE.png|.mp4",
    help="A sheet of pictures, or a film of it under a moving input; FILE.json tells how.",
)
@device_option
@debug_option
def inspect(network, deltas, seed, latent, force, trunc, class_index, list_only, output, **options):
    """Layers of a network as pictures: their channels in space or as spectra.

    Works on StyleGAN3 (with a translated, rotated or moving input) and on StyleGAN2.

    \b
    Examples:
      sg3 inspect --list
      sg3 inspect --seed 3 --output layers.png
      sg3 inspect --seed 3 --domain spectrum --channels 0-2,all --rotate 20 --output spectra.png
      sg3 inspect --layers features,L2,output --motion turn --output turn.mp4
    """
    import sg3
    from sg3.analysis.layers import layers
    from sg3.cli.video import manifest_beside

    if not list_only:
        _check_output(output)
    nets = sg3.load(network, resolve_device(options["device"]))
    G = with_deltas(nets.G_ema, deltas)
    if list_only:
        for layer in layers(G):
            click.echo(
                f"{layer.name:16s}{layer.channels:5d} channels {layer.width}x{layer.height}, rate "
                f"{layer.sampling_rate:g}, cutoff {layer.cutoff:.4g}, half width "
                f"{layer.half_width:.4g}"
            )
        return
    out = Path(output)
    manifest = manifest_beside(out, [(network, nets)], [*(path for path, _ in deltas), latent])
    ws = _latent(G, seed, latent, None if force else nets.meta["sha256"], trunc, class_index)
    with manifest:
        _write(G, ws, out, options)
        manifest.add_output(out)
        manifest.results["input_transform"] = _learned(G, ws)
    click.echo(str(out))


def _learned(G, ws) -> dict | None:
    """What the latent does to the input of a StyleGAN3; printed too."""
    from sg3.analysis.layers import input_transforms
    from sg3.networks import stylegan3

    if not isinstance(G.synthesis, stylegan3.SynthesisNetwork):
        return None
    (learned,) = input_transforms(G, ws)
    x, y = learned.translate
    click.echo(f"learned transform: {x:+.4f},{y:+.4f}, {learned.rotate_deg:+.2f} degrees")
    return {**vars(learned), "matrix": learned.matrix.tolist()}


def _check_output(output: str | None) -> None:
    from sg3.files import check_folder

    if output is None:
        raise click.UsageError("give --output FILE.png or FILE.mp4, or --list")
    if not output.endswith((".png", ".mp4")):
        raise UserError(f"{output}: expected a name ending in .png or .mp4")
    check_folder(Path(output).parent)


def _latent(G, seed: int, latent: str | None, sha256: str | None, trunc: float, class_index):
    """ws `[1, num_ws, w_dim]`."""
    from sg3.animation import VideoConfig, seed_latents
    from sg3.latent_files import load_latents

    if latent is None:
        config = VideoConfig(seeds=(seed,), truncation_psi=trunc, class_index=class_index)
        return seed_latents(G, config)
    return load_latents(latent, G, sha256)[:1].to(next(G.parameters()).device)


def _write(G, ws, out: Path, options: dict) -> None:
    from sg3.analysis import inspect as analysis
    from sg3.cli.video import write_film
    from sg3.files import prepare_folder
    from sg3.media import save_png
    from sg3.motion import moves

    look = analysis.Look(
        domain=options["domain"],
        normalize=not options["raw"],
        gain_db=options["gain"],
        range_db=options["range_db"],
        beta=options["beta"],
    )
    names, channels = options["layers"], options["channels"]
    shape = {"columns": options["columns"], "size_px": options["size"]}
    if out.suffix == ".mp4":
        if any(options["translate"]) or options["rotate"]:
            raise click.UsageError("--translate and --rotate are for .png; a film has its --motion")
        path = moves(options["motion"], options["frames"], options["amount"])
        frames = analysis.sheet_frames(G, ws, names, channels, path, look=look, **shape)
        write_film(frames, len(path), out, options["fps"])
    else:
        moved = {"translate": options["translate"], "rotate_deg": options["rotate"]}
        pictures = analysis.layer_pictures(G, ws, names, channels, look=look, **moved)
        sheet = analysis.sheet(pictures, **shape)
        prepare_folder(out.parent)
        save_png(out, sheet)
