"""`sg3 video`."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from sg3.cli.options import (
    GRID,
    SEEDS,
    ParsedType,
    apply_precision,
    debug_option,
    delta_option,
    device_option,
    precision_option,
    resolve_device,
    with_deltas,
)
from sg3.errors import UserError


def check_mp4(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse names that do not end in .mp4, and folders that cannot be written to."""
    from sg3.files import check_folder

    if value is None:
        return None
    if not value.endswith(".mp4"):
        raise UserError(f"{value}: expected a name ending in .mp4")
    check_folder(Path(value).parent)
    return value


@click.command()
@click.option(
    "--network",
    "networks",
    default=("mini-faces",),
    show_default=True,
    multiple=True,
    metavar="NAME|FILE|URL",
    help="A name from `sg3 models`, a .safetensors or official .pkl file, or an https URL; "
    "several with --kind slices.",
)
@delta_option
@click.option(
    "--kind",
    type=click.Choice(["lerp", "loop", "transform", "slices"]),
    default="lerp",
    show_default=True,
    help="lerp: through the seeds' pictures; loop: a random path; transform: the input of a "
    "StyleGAN3 moves; slices: one column of pixels over time, and how much sticks to the pixels.",
)
@click.option("--seeds", type=SEEDS, default="0-3", show_default=True, help="Like 0-7,12.")
@click.option(
    "--latent",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Saved latents (safetensors, tensor 'ws') as keyframes instead of seeds.",
)
@click.option("--force", is_flag=True, help="Take a latent of another network of the same shape.")
@click.option(
    "--grid",
    type=GRID,
    default="1x1",
    show_default=True,
    help="Columns and rows.",
)
@click.option(
    "--num-keyframes", type=click.IntRange(1), help="Of each cell; default: seeds over cells."
)
@click.option(
    "--w-frames",
    type=click.IntRange(1),
    default=120,
    show_default=True,
    help="Frames from one keyframe to the next; of one round of a moving input.",
)
@click.option(
    "--shuffle-seed", type=click.IntRange(0, 2**32 - 1), help="Mix the order of the seeds."
)
@click.option(
    "--motion",
    type=click.Choice(["shift", "circle", "turn", "both"]),
    default="circle",
    show_default=True,
    help="With --kind transform: how the input moves; both is circle and turn.",
)
@click.option(
    "--amount",
    type=click.FloatRange(0, 10),
    default=0.1,
    show_default=True,
    help="Of that motion, in larger sides of the image.",
)
@click.option(
    "--column",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="With --kind slices: where, from 0 (left) to 1.",
)
@click.option("--trunc", type=float, default=1, show_default=True, help="Truncation psi.")
@click.option("--class", "class_index", type=int, metavar="INDEX", help="Class, if conditional.")
@click.option("--fps", type=click.FloatRange(0, min_open=True), default=60, show_default=True)
@click.option(
    "--bitrate",
    type=ParsedType("RATE", lambda text: check_bitrate(text)),
    help="Like 12M; by default a constant quality.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    required=True,
    callback=check_mp4,
    metavar="FILE.mp4",
    help="What to write; FILE.json beside it tells how it was made.",
)
@precision_option
@device_option
@debug_option
def video(networks, deltas, kind, latent, force, column, fps, bitrate, output, device, **options):
    """Film latents between seeds, or the input of a StyleGAN3 on the move.

    \b
    Examples:
      sg3 video --seeds 0-31 --grid 4x2 --w-frames 60 --output faces.mp4
      sg3 video --seeds 3 --kind transform --motion both --w-frames 240 --output turn.mp4
      sg3 video --delta zombie --seeds 0-7 --grid 2x1 --output zombies.mp4
      sg3 video --kind slices --network mini-faces --network sg2.safetensors --seeds 0-7 \\
        --output slices.mp4
    """
    import sg3
    from sg3.animation import plan_film
    from sg3.latent_files import load_latents
    from sg3.media import save_png

    if kind != "slices" and len(networks) != 1:
        raise UserError(f"--network: got {len(networks)}, expected one; several take --kind slices")
    if kind == "slices" and (latent is not None or options["grid"] != (1, 1)):
        raise UserError("--latent, --grid: not with --kind slices, which follows seeds one by one")
    loaded = [(name, sg3.load(name, resolve_device(device))) for name in networks]
    generators = []
    for name, nets in loaded:
        G = with_deltas(nets.G_ema, deltas)
        apply_precision(G, options["precision"])
        generators.append((name, G))
    config, out = _config(kind, options), Path(output)
    manifest = manifest_beside(out, loaded, [*(path for path, _ in deltas), latent])
    if kind == "slices":
        from sg3.analysis.stickiness import SliceFilm

        film = SliceFilm([(_title(name), G) for name, G in generators], config, column)
    else:
        ws = None
        if latent is not None:
            sha256 = None if force else loaded[0][1].meta["sha256"]
            ws = load_latents(latent, generators[0][1], sha256)
        film = plan_film(generators[0][1], config, ws)
    with manifest, manifest.time("film"):
        write_film(film.frames, film.num_frames, out, fps, bitrate)
        manifest.add_output(out)
        if kind == "slices":
            save_png(out.with_suffix(".png"), film.picture)
            manifest.add_output(out.with_suffix(".png"))
            manifest.results["stickiness"] = film.stickiness
    for title, value in manifest.results.get("stickiness", {}).items():
        click.echo(f"stickiness of {title}: {value:.4f}")
    click.echo(f"{out}: {film.num_frames} frames")


def _config(kind: str, options: dict):
    from sg3.animation import VideoConfig

    return VideoConfig(
        kind="lerp" if kind == "slices" else kind,
        truncation_psi=options["trunc"],
        **{
            name: options[name]
            for name in (
                "seeds",
                "grid",
                "num_keyframes",
                "w_frames",
                "shuffle_seed",
                "class_index",
                "motion",
                "amount",
            )
        },
    )


def _title(name: str) -> str:
    return Path(name).stem if Path(name).suffix else name


def check_bitrate(text: str) -> str:
    """`text` if it is a number with k or M. Raises UserError otherwise."""
    if not re.fullmatch(r"\d+(\.\d+)?[kM]?", text):
        raise UserError(f"got {text!r}, expected a rate like 12M")
    return text


def manifest_beside(out: Path, networks, files=()):
    """The manifest of the running command as `out` with .json: what is written there may share its
    folder. `networks` are pairs (name, loaded networks), `files` further inputs or None."""
    from sg3.manifest import RunManifest

    context = click.get_current_context()
    manifest = RunManifest(out.parent, context.info_name, context.params)
    manifest.path = out.with_suffix(".json")
    for name, nets in networks:
        manifest.add_input(name, nets.meta["sha256"])
    for path in files:
        if path is not None:
            manifest.add_input(path)
    return manifest


def write_film(
    frames: Iterator, num_frames: int, out: Path, fps: float, bitrate: str | None = None
) -> None:
    """Encode `frames` to `out` as they come, with a progress bar where someone is looking.

    Bad input shows with the first frame, before a folder is made.
    """
    from tqdm import tqdm

    from sg3.media import VideoWriter

    first = next(frames)
    out.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=num_frames, unit="frame", disable=not sys.stderr.isatty())
    with VideoWriter(out, fps=fps, bitrate=bitrate) as writer, bar:
        for frame in itertools.chain([first], frames):
            writer.add(frame)
            bar.update()
