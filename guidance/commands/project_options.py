"""Options of `sg3 project`."""

from __future__ import annotations

import math

import click

from sg3.cli.options import (
    ParsedType,
    debug_option,
    delta_option,
    device_option,
    network_option,
    seed_option,
)
from sg3.errors import UserError

COUNT = click.IntRange(0)
WEIGHT = click.FloatRange(min=0)


def parse_crop(text: str) -> str | tuple[float, ...]:
    """`auto`, `centre`, or `"X,Y,SIZE[,DEG]"` → numbers. Raises UserError otherwise."""
    if text in ("auto", "centre"):
        return text
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) not in (3, 4) or not all(map(math.isfinite, numbers)) or numbers[2] < 1:
        raise UserError(f"crop: got {text!r}, expected auto, centre or X,Y,SIZE[,DEG] in pixels")
    return numbers


WHAT = [
    network_option,
    delta_option,
    click.option(
        "--crop",
        type=ParsedType("crop", parse_crop),
        metavar="auto|centre|X,Y,SIZE[,DEG]",
        help="Where in the photo to look: where it resembles the network's pictures most, the "
        "central part, or there (centre, larger side and angle, in pixels of the photo).  "
        "[default: auto, or that of --latent]",
    ),
    click.option(
        "--latent",
        type=click.Path(),
        metavar="FILE",
        help="Go on from the latent of an earlier run; give its delta as --delta.",
    ),
    click.option(
        "--transform/--no-transform",
        default=None,
        help="Let the input transform move and turn the picture.  [default: on StyleGAN3 in w]",
    ),
    click.option("--class", "class_index", type=int, help="Class of a conditional network."),
]
HOW = [
    click.option("--steps", type=COUNT, help="Of the projection."),
    click.option("--space", type=click.Choice(["w", "w+"]), help="One latent, or one per layer."),
    click.option(
        "--start",
        type=click.Choice(["best", "seed", "mean"]),
        help="The nearest of the candidates, the picture of the seed, or the mean.",
    ),
    click.option("--candidates", type=click.IntRange(1), help="How many to choose the start from."),
    click.option("--lr", type=WEIGHT, help="Learning rate, in standard deviations of W."),
    click.option("--exploration", type=WEIGHT, help="Random steps at first, in the same."),
    click.option("--pixels", type=WEIGHT, help="Weight of pixels beside the distance."),
    click.option("--prior", type=WEIGHT, help="Pull towards the mean of W."),
    click.option("--spread", type=WEIGHT, help="Of w+: pull of its rows towards each other."),
    click.option(
        "--distance",
        default="auto",
        type=click.Choice(["auto", "lpips", "scales"]),
        show_default=True,
        help="lpips needs weights, scales none; auto is lpips where they are at hand.",
    ),
    seed_option,
]
TUNING = [
    click.option(
        "--tune",
        "tune__steps",
        type=COUNT,
        default=0,
        show_default=True,
        help="Steps, at most, in which the network itself learns the photo (PTI).",
    ),
    click.option("--tune-lr", "tune__lr", type=WEIGHT, help="Learning rate of its weights."),
    click.option("--tune-stop", "tune__stop", type=WEIGHT, help="Distance that is enough."),
    click.option(
        "--locality", "tune__locality", type=WEIGHT, help="Keep the pictures near it: weight."
    ),
    click.option("--rank", type=click.IntRange(1), help="Of the delta: smaller, less exact."),
]
OUTPUT = [
    click.option(
        "--outdir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where to write; made if missing.  [default: out/project-PHOTO]",
    ),
    click.option("--video/--no-video", default=True, show_default=True, help="Write project.mp4."),
    device_option,
    debug_option,
]


def project_options(function):
    """All of them, in the order in which --help shows them."""
    for option in reversed([*WHAT, *HOW, *TUNING, *OUTPUT]):
        function = option(function)
    return function
