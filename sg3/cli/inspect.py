"""`sg3 inspect`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg3.analysis.layer_display import LayerDisplay
from sg3.cli.options import (
    ParsedType,
    allows_nonfinite,
    check_files,
    class_option,
    config_option,
    debug_option,
    delta_option,
    device_option,
    force_latent_option,
    fps_option,
    load_generator,
    need_option,
    network_option,
    option,
    rotate_option,
    seed_option,
    translate_option,
    trunc_option,
)
from sg3.errors import UserError
from sg3.settings import ClassLabel
from sg3.video_config import VideoConfig

if TYPE_CHECKING:
    import torch

    from sg3.networks.generator import MappedGenerator


def parse_channels(text: str) -> list:
    """`"0-2,0+1+2,all"` → `[0, 1, 2, (0, 1, 2), "all"]`. Raises ValueError for anything else."""
    channels: list = []
    for part in text.replace(" ", "").split(","):
        if part == "all":
            channels.append(part)
        elif re.fullmatch(r"\d{1,5}\+\d{1,5}\+\d{1,5}", part):
            channels.append(tuple(int(number) for number in part.split("+")))
        elif match := re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part):
            channels.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
        else:
            raise UserError(f"got {text!r}, expected channels like 0-3, 0+1+2 (color) or all")
    if not channels:
        raise UserError(f"got {text!r}, expected at least one channel like 0-3")
    return channels


@click.command()
@network_option
@delta_option
@seed_option
@option(
    "--latent",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Saved latents (safetensors, tensor 'ws'), of which the first is used.",
    unset="use --seed",
)
@force_latent_option
@trunc_option
@class_option
@option("--list", "list_only", is_flag=True, help="Print the layers and write nothing.")
@option(
    "--layers",
    type=ParsedType("NAMES", lambda text: [name.strip() for name in text.split(",")]),
    help="Layers, like features,L3,output.",
    unset="all",
)
@option(
    "--channels",
    type=ParsedType("CHANNELS", parse_channels),
    default="0-3,0+1+2",
    help="Channels: numbers and ranges in gray, three joined by + in color, all for the joint "
    "spectrum. Channels that a layer lacks are skipped.",
)
@config_option(LayerDisplay, "domain")
@option("--raw", is_flag=True, help="Do not divide channels by their largest magnitude.")
@config_option(LayerDisplay, "gain_db", "--gain", param="gain")
@config_option(LayerDisplay, "range_db", "--range")
@config_option(LayerDisplay, "beta")
@translate_option
@rotate_option
@config_option(
    VideoConfig, "motion", help="Motion of the input in a video; both is circle and turn."
)
@config_option(VideoConfig, "amount")
@option("--frames", type=click.IntRange(1), default=120, help="Frames of a video.")
@fps_option(30)
@option(
    "--columns",
    type=click.IntRange(1),
    help="Images per row.",
    unset="one row per layer",
)
@option(
    "--size",
    type=click.IntRange(16, 4096),
    default=128,
    help="Size of each image on the sheet, in pixels.",
)
@option(
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE.png|.mp4",
    help="Contact sheet, or a video of it under a moving input; FILE.json next to it records how "
    "it was made.",
    unset="none; required without --list",
)
@device_option
@debug_option
def inspect(
    network: str,
    deltas: Sequence[tuple[str, float]],
    seed: int,
    latent: str | None,
    force: bool,
    trunc: float,
    class_index: ClassLabel | None,
    list_only: bool,
    output: str | None,
    device: str,
    **options: Any,
) -> None:
    """Show the channels of layers as images, in space or as power spectra.

    Works for StyleGAN3 (also with a translated, rotated or moving input) and StyleGAN2.

    \b
    Examples:
      sg3 inspect --list
      sg3 inspect --seed 3 --output layers.png
      sg3 inspect --seed 3 --domain spectrum --channels 0-2,all --rotate 20 --output spectra.png
      sg3 inspect --layers features,L2,output --motion turn --output turn.mp4
    """
    from sg3.cli.video import manifest_next_to

    out = None if list_only else _check_output(output)
    is_video = out is not None and out.suffix == ".mp4"
    need_option(is_video, "--output FILE.mp4", "frames", "fps", "motion", "amount")
    check_files(network, latent=latent)
    nets, G = load_generator(network, device, deltas)
    if out is None:
        _print_layers(G)
        return
    manifest = manifest_next_to(out, [(network, nets)], [*(path for path, _ in deltas), latent])
    ws = _latent(G, seed, latent, None if force else nets.meta["sha256"], trunc, class_index)
    with manifest:
        _write(G, ws, out, options)
        manifest.add_output(out)
        manifest.results["input_transform"] = _print_learned_transform(G, ws)
    click.echo(str(out))


def _print_layers(G: MappedGenerator) -> None:
    from sg3.analysis.layers import layers

    for layer in layers(G):
        click.echo(
            f"{layer.name:16s}{layer.channels:5d} channels {layer.width}x{layer.height}, rate "
            f"{layer.sampling_rate:g}, cutoff {layer.cutoff:.4g}, half width "
            f"{layer.half_width:.4g}"
        )


def _print_learned_transform(G: MappedGenerator, ws: torch.Tensor) -> dict[str, Any] | None:
    """Print and return the learned transform of the input; None for a StyleGAN2."""
    from sg3.analysis.layers import input_transforms
    from sg3.networks import stylegan3

    if not isinstance(G.synthesis, stylegan3.SynthesisNetwork):
        return None
    (learned,) = input_transforms(G, ws)
    x, y = learned.translate
    click.echo(f"learned transform: {x:+.4f},{y:+.4f}, {learned.rotate_deg:+.2f} degrees")
    return {**vars(learned), "matrix": learned.matrix.tolist()}


def _check_output(output: str | None) -> Path:
    from sg3.files import check_folder

    if output is None:
        raise click.UsageError("give --output FILE.png or FILE.mp4, or --list")
    if not output.endswith((".png", ".mp4")):
        raise UserError(f"{output}: expected a name ending in .png or .mp4")
    check_folder(Path(output).parent)
    return Path(output)


def _latent(
    G: MappedGenerator,
    seed: int,
    latent: str | None,
    sha256: str | None,
    trunc: float,
    class_index: ClassLabel | None,
) -> torch.Tensor:
    """Return ws `[1, num_ws, w_dim]` of the seed, or of the file `latent`."""
    from sg3.animation import seed_latents
    from sg3.latent_files import load_latents

    if latent is None:
        config = VideoConfig(seeds=(seed,), truncation_psi=trunc, class_index=class_index)
        return seed_latents(G, config)
    return load_latents(latent, G, sha256, allows_nonfinite())[:1].to(next(G.parameters()).device)


def _write(G: MappedGenerator, ws: torch.Tensor, out: Path, options: dict[str, Any]) -> None:
    """Write a contact sheet, or a video of it."""
    from sg3.analysis.inspect import layer_images, sheet, sheet_frames
    from sg3.cli.video import write_video
    from sg3.files import prepare_folder
    from sg3.media import save_png
    from sg3.motion import moves

    display = LayerDisplay(
        domain=options["domain"],
        normalize=not options["raw"],
        gain_db=options["gain"],
        range_db=options["range_db"],
        beta=options["beta"],
    )
    names, channels = options["layers"], options["channels"]
    columns, size_px = options["columns"], options["size"]
    if out.suffix == ".mp4":
        if any(options["translate"]) or options["rotate"]:
            raise click.UsageError("--translate and --rotate require .png; videos have --motion")
        path = moves(options["motion"], options["frames"], options["amount"])
        frames = sheet_frames(
            G, ws, names, channels, path, display=display, columns=columns, size_px=size_px
        )
        write_video(frames, len(path), out, options["fps"])
    else:
        moved = {"translate": options["translate"], "rotate_deg": options["rotate"]}
        images = layer_images(G, ws, names, channels, display=display, **moved)
        result = sheet(images, columns, size_px)
        prepare_folder(out.parent)
        save_png(out, result)
