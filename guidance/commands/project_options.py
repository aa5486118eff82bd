"""Options of `sg3 project`."""

from __future__ import annotations

import math

import click

from guidance.commands.common import outdir_option
from guidance.inversion.config import ProjectConfig, TuneConfig
from sg3.cli.options import (
    ParsedType,
    config_option,
    debug_option,
    delta_option,
    device_option,
    network_option,
    option,
    seed_option,
)
from sg3.errors import UserError

#: Prefix of the parameters that are fields of `TuneConfig`.
TUNE = "tune__"


def parse_crop(text: str) -> str | tuple[float, ...]:
    """`auto`, `centre`, or the numbers of `"X,Y,SIZE[,DEG]"`. Raises ValueError otherwise."""
    if text in ("auto", "centre"):
        return text
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) not in (3, 4) or not all(map(math.isfinite, numbers)) or numbers[2] < 1:
        raise UserError(f"crop: got {text!r}, expected auto, centre or X,Y,SIZE[,DEG] in pixels")
    return numbers


INPUT = [
    network_option,
    delta_option,
    option(
        "--crop",
        type=ParsedType("crop", parse_crop),
        metavar="auto|centre|X,Y,SIZE[,DEG]",
        unset="auto, or that of --latent",
        help="Part of the photo to project. auto: the part that resembles the network's images "
        "most; centre: the largest central part; or centre, larger side and rotation in pixels "
        "of the photo.",
    ),
    option(
        "--latent",
        type=click.Path(),
        metavar="FILE",
        unset="none",
        help="Latent of an earlier run to continue from; give its delta as --delta.",
    ),
    option(
        "--transform/--no-transform",
        default=None,
        unset="on for StyleGAN3 in space w",
        help="Optimize the input transform of a StyleGAN3 too.",
    ),
    config_option(ProjectConfig, "class_index", "--class"),
]
PROJECTION = [
    config_option(ProjectConfig, "steps"),
    config_option(ProjectConfig, "space"),
    config_option(ProjectConfig, "start"),
    config_option(ProjectConfig, "candidates"),
    config_option(ProjectConfig, "lr"),
    config_option(ProjectConfig, "exploration"),
    config_option(ProjectConfig, "pixels"),
    config_option(ProjectConfig, "prior"),
    config_option(ProjectConfig, "spread"),
    option(
        "--distance",
        default="auto",
        type=click.Choice(["auto", "lpips", "scales"]),
        help="Perceptual distance. lpips needs weights, scales does not; auto takes lpips if its "
        "weights are installed.",
    ),
    seed_option,
]
TUNING = [
    config_option(
        TuneConfig,
        "steps",
        "--tune",
        param=f"{TUNE}steps",
        default=0,
        help="Maximum number of steps that fine-tune the network itself to the photo (PTI); "
        "0 = off.",
    ),
    config_option(TuneConfig, "lr", "--tune-lr", param=f"{TUNE}lr"),
    config_option(TuneConfig, "stop", "--tune-stop", param=f"{TUNE}stop"),
    config_option(TuneConfig, "locality", param=f"{TUNE}locality"),
    option(
        "--rank",
        type=click.IntRange(1),
        unset="full",
        help="Rank of the delta; a lower one makes it smaller and less exact.",
    ),
]
OUTPUT = [
    outdir_option("out/project-PHOTO"),
    option("--video/--no-video", default=True, help="Write project.mp4."),
    device_option,
    debug_option,
]


def project_options(function):
    """Decorator with all options, in the order of --help."""
    for add in reversed([*INPUT, *PROJECTION, *TUNING, *OUTPUT]):
        function = add(function)
    return function
