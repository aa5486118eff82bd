"""Options of `sg3 steer`."""

from __future__ import annotations

import click

from guidance.augment import AUGMENTS, Augment
from guidance.commands.common import outdir_option, templates_option
from guidance.steering.config import SteerConfig
from sg3.cli.options import (
    ParsedType,
    config_option,
    debug_option,
    delta_option,
    device_option,
    network_option,
    option,
    precision_option,
    seed_option,
)
from sg3.errors import UserError

FRACTION = click.FloatRange(min=0, max=1)


def parse_times(text: str) -> tuple[int, ...]:
    """`"0,40,100"` → (0, 40, 100). Raises ValueError otherwise."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"times: got {text!r}, expected steps like 0,40,100") from None


def parse_video(text: str) -> str:
    """A file name. Raises ValueError for one without .mp4: probably a prompt after the flag."""
    if text and not text.lower().endswith(".mp4"):
        raise UserError(
            f"video: got {text!r}, expected a name ending in .mp4; texts come before --video"
        )
    return text


def _augment(name: str, unset: str = "that of --augment"):
    return config_option(Augment, name, default=None, unset=unset)


INPUT = [
    option(
        "--image",
        "images",
        multiple=True,
        metavar="FILE[:WEIGHT]",
        help="Image that works like a text; can be repeated.",
    ),
    network_option,
    delta_option,
    option(
        "--clip",
        "clips",
        multiple=True,
        default=["mini"],
        metavar="MODEL[/TAG|/FILE][:WEIGHT]",
        help="Encoder: mini, mini-smooth or any open_clip model (SigLIP too); can be repeated.",
    ),
    templates_option,
    config_option(SteerConfig, "steps"),
    seed_option,
    option(
        "--variants",
        type=click.IntRange(1),
        default=1,
        help="Number of variants, seeds SEED…SEED+N−1.",
    ),
    config_option(SteerConfig, "class_index", "--class"),
]
START = [
    config_option(SteerConfig, "start"),
    option(
        "--latent",
        metavar="FILE",
        unset="none",
        help="Latent of sg3 steer, project or edit to start from.",
    ),
    config_option(SteerConfig, "candidates"),
    config_option(SteerConfig, "generations"),
    config_option(SteerConfig, "truncation", "--trunc"),
]
OPTIMIZER = [
    config_option(SteerConfig, "space"),
    config_option(SteerConfig, "basis"),
    option(
        "--transform/--no-transform",
        default=None,
        unset="computed from w as usual",
        help="Optimize the input transform of a StyleGAN3, or hold it fixed.",
    ),
    config_option(SteerConfig, "layers", metavar="LAYERS"),
    config_option(SteerConfig, "lr"),
    config_option(SteerConfig, "schedule"),
    config_option(SteerConfig, "ema"),
    config_option(SteerConfig, "patience"),
]
KEEPING = [
    option(
        "--region",
        metavar="X0,Y0,X1,Y1|FILE",
        unset="the whole image",
        help="Compare only this part with the prompts and preserve the rest: a box in pixels, or "
        "an image that is white inside.",
    ),
    config_option(SteerConfig, "outside"),
    config_option(SteerConfig, "keep"),
    config_option(SteerConfig, "perceptual"),
    config_option(SteerConfig, "perceptual_distance"),
    config_option(SteerConfig, "identity"),
    config_option(SteerConfig, "identity_encoder", metavar="FILE|MODEL"),
    config_option(SteerConfig, "prior"),
    config_option(SteerConfig, "max_sigma"),
]
OBJECTIVE = [
    config_option(SteerConfig, "distance"),
    config_option(SteerConfig, "source", metavar="TEXT"),
    config_option(SteerConfig, "cutouts"),
    option(
        "--augment",
        type=click.Choice(list(AUGMENTS)),
        default=SteerConfig.augment,
        help="Augmentation of the views.",
    ),
    _augment("perspective", unset="0"),
    _augment("flip", unset="0"),
    option(
        "--jitter",
        type=FRACTION,
        unset="that of --augment",
        help="Colour jitter of the views.",
    ),
    _augment("noise"),
]
DISSOLVE = [
    option(
        "--dissolve",
        type=click.IntRange(1),
        metavar="STEPS",
        unset="off",
        help="Make a video that goes from prompt to prompt, with this many steps per prompt.",
    ),
    option(
        "--times",
        type=ParsedType("times", parse_times),
        metavar="0,T,...",
        unset="at equal intervals",
        help="Steps at which the prompts of --dissolve take over.",
    ),
    option(
        "--fade",
        type=FRACTION,
        default=0.5,
        help="Fraction of the shortest section of --dissolve over which prompts cross-fade.",
    ),
    option(
        "--motion",
        type=click.Choice(["shift", "circle", "turn", "both"]),
        unset="none",
        help="Move the frames of --dissolve through the input transform of a StyleGAN3.",
    ),
    option(
        "--amount",
        type=float,
        default=0.1,
        help="Extent of --motion shift, circle and both, as a fraction of the image's larger side; "
        "turn ignores it.",
    ),
]
OUTPUT = [
    outdir_option("out/steer-PROMPT"),
    option(
        "--video",
        is_flag=False,
        flag_value="",
        default="",
        type=ParsedType("video", parse_video),
        metavar="[FILE.mp4]",
        unset="DIR/steer.mp4",
        help="Video of the run.",
    ),
    option("--no-video", is_flag=True, help="Write no video."),
    option("--resume", is_flag=True, help="Resume the interrupted run in --outdir."),
    option(
        "--force",
        is_flag=True,
        help="Accept a latent made with another network of the same shapes.",
    ),
    precision_option,
    option(
        "--compile",
        "compiled",
        is_flag=True,
        help="Compile the generator with torch.compile and CUDA graphs; pays off for many steps "
        "on a GPU.",
    ),
    device_option,
    debug_option,
]


def steer_options(function):
    """Decorator with all options, in the order of --help."""
    for add in reversed([*INPUT, *START, *OPTIMIZER, *KEEPING, *OBJECTIVE, *DISSOLVE, *OUTPUT]):
        function = add(function)
    return function
