"""`sg3 video`."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg3.cli.options import (
    GRID,
    NETWORK_HELP,
    SEEDS,
    ParsedType,
    allows_nonfinite,
    as_option,
    check_files,
    class_option,
    config_option,
    debug_option,
    delta_option,
    device_option,
    force_latent_option,
    fps_option,
    latent_option,
    load_generator,
    need_option,
    option,
    precision_option,
    trunc_option,
)
from sg3.errors import UserError
from sg3.video_config import KINDS, VideoConfig

if TYPE_CHECKING:
    import numpy as np

    from sg3.checkpoints import Networks
    from sg3.manifest import RunManifest
    from sg3.networks.generator import MappedGenerator


def check_mp4(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback that refuses names that do not end in .mp4, and folders that are not writable."""
    from sg3.files import check_folder

    if value is None:
        return None
    if not value.endswith(".mp4"):
        raise UserError(f"{value}: expected a name ending in .mp4")
    check_folder(Path(value).parent)
    return value


#: Bits per second, far above any encoder.
MAX_BITRATE = 1e9


def parse_bitrate(text: str) -> str:
    """Return `text` if it is a number with k or M. Raises ValueError otherwise."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([kM]?)", text)
    rate = float(found[1]) * {"": 1, "k": 1e3, "M": 1e6}[found[2]] if found else 0
    if not 1000 <= rate <= MAX_BITRATE:
        raise UserError(f"got {text!r}, expected a rate like 12M, of 1k to 1000M")
    return text


@click.command()
@as_option
@option(
    "--network",
    "networks",
    default=("mini-faces",),
    multiple=True,
    metavar="NAME|FILE|URL",
    help=f"{NETWORK_HELP} Repeat for several, with --kind slices.",
)
@delta_option
@option(
    "--kind",
    type=click.Choice([*KINDS, "slices"]),
    default="lerp",
    help="lerp: interpolation between seeds; loop: a random closed path; transform: a moving input "
    "(StyleGAN3); slices: one pixel column over time, and how much texture sticks to the pixels.",
)
@config_option(VideoConfig, "seeds", type=SEEDS, default="0-3", help="Seeds, like 0-7,12.")
@latent_option
@force_latent_option
@config_option(VideoConfig, "grid", type=GRID, default="1x1")
@config_option(VideoConfig, "num_keyframes")
@config_option(VideoConfig, "w_frames")
@config_option(VideoConfig, "shuffle_seed")
@config_option(
    VideoConfig,
    "motion",
    help="With --kind transform: motion of the input; both is circle and turn.",
)
@config_option(VideoConfig, "amount")
@option(
    "--column",
    type=click.FloatRange(0, 1),
    default=0.5,
    help="With --kind slices: the column, from 0 (left) to 1 (right).",
)
@trunc_option
@class_option
@fps_option(60)
@option(
    "--bitrate",
    type=ParsedType("RATE", parse_bitrate),
    help="Bit rate, like 12M.",
    unset="constant quality",
)
@option(
    "--output",
    type=click.Path(dir_okay=False),
    required=True,
    callback=check_mp4,
    metavar="FILE.mp4",
    help="Video to write; FILE.json next to it records how it was made.",
)
@precision_option
@device_option
@debug_option
def video(
    networks: Sequence[str],
    deltas: Sequence[tuple[str, float]],
    kind: str,
    latent: str | None,
    force: bool,
    column: float,
    fps: float,
    bitrate: str | None,
    output: str,
    precision: str,
    device: str,
    **options: Any,
) -> None:
    """Make a video: interpolations, loops, a moving input, or texture sticking.

    \b
    Examples:
      sg3 video --seeds 0-31 --grid 4x2 --w-frames 60 --output faces.mp4
      sg3 video --seeds 3 --kind transform --motion both --w-frames 240 --output turn.mp4
      sg3 video --delta zombie --seeds 0-7 --grid 2x1 --output zombies.mp4
      sg3 video --kind slices --network mini-faces --network mini-faces-stylegan2 --seeds 0-7 \\
        --output slices.mp4
    """
    from sg3.media import save_png

    if kind != "slices" and len(networks) != 1:
        raise UserError(
            f"--network: got {len(networks)}, expected one; only slices compares several"
        )
    if kind == "slices" and (latent is not None or options["grid"] != (1, 1)):
        raise UserError("--latent, --grid: not possible with --kind slices")
    need_option(kind == "transform", "--kind transform", "motion", "amount")
    need_option(kind == "slices", "--kind slices", "column")
    check_files(*networks, latent=latent)
    loaded = [(name, *load_generator(name, device, deltas, precision)) for name in networks]
    config, out = _config(kind, options), Path(output)
    manifest = manifest_next_to(
        out, [(name, nets) for name, nets, _ in loaded], [*(path for path, _ in deltas), latent]
    )
    result = _plan(kind, config, column, loaded, latent, force)
    with manifest, manifest.time("video"):
        write_video(result.frames, result.num_frames, out, fps, bitrate)
        manifest.add_output(out)
        if kind == "slices":
            save_png(out.with_suffix(".png"), result.image)
            manifest.add_output(out.with_suffix(".png"))
            manifest.results["stickiness"] = result.stickiness
    for title, value in manifest.results.get("stickiness", {}).items():
        click.echo(f"stickiness of {title}: {value:.4f}")
    click.echo(f"{out}: {result.num_frames} frames")


def _plan(
    kind: str,
    config: VideoConfig,
    column: float,
    loaded: Sequence[tuple[str, Networks, MappedGenerator]],
    latent: str | None,
    force: bool,
) -> Any:
    """Return the `Video` or `SliceVideo` to render."""
    from sg3.analysis.stickiness import SliceVideo
    from sg3.animation import plan_video
    from sg3.latent_files import load_latents

    if kind == "slices":
        return SliceVideo([(_title(name), G) for name, _, G in loaded], config, column)
    ((_, nets, G),) = loaded
    ws = None
    if latent is not None:
        sha256 = None if force else nets.meta["sha256"]
        ws = load_latents(latent, G, sha256, allows_nonfinite())
    return plan_video(G, config, ws)


def _config(kind: str, options: dict[str, Any]) -> VideoConfig:
    values = {**options, "kind": "lerp" if kind == "slices" else kind}
    return VideoConfig(truncation_psi=values.pop("trunc"), **values)


def _title(name: str) -> str:
    return Path(name).stem if Path(name).suffix else name


def manifest_next_to(
    out: Path, networks: Iterable[tuple[str, Networks]], files: Iterable[str | None] = ()
) -> RunManifest:
    """Return the manifest of the running command, to be written as `out` with suffix .json.

    `networks` are names and loaded networks, `files` further inputs; None is skipped.
    """
    from sg3.manifest import RunManifest

    context = click.get_current_context()
    manifest = RunManifest(out.parent, context.info_name or "", context.params)
    # Not run.json: outputs of several commands may share a folder.
    manifest.path = out.with_suffix(".json")
    for name, nets in networks:
        manifest.add_input(name, nets.meta["sha256"])
    for path in files:
        if path is not None:
            manifest.add_input(path)
    return manifest


def write_video(
    frames: Iterator[np.ndarray],
    num_frames: int,
    out: Path,
    fps: float,
    bitrate: str | None = None,
) -> None:
    """Encode `frames` as they are rendered, with a progress bar if stderr is a terminal.

    The folder is created after the first frame, so bad input leaves nothing behind.
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
