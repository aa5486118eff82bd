"""Options of `sg3 edit`."""

from __future__ import annotations

import math
import re

import click

from guidance.commands.common import outdir_option, templates_option
from guidance.directions.config import RelevanceConfig
from sg3.cli.options import (
    SEEDS,
    ParsedType,
    config_option,
    debug_option,
    delta_option,
    device_option,
    network_option,
    option,
)
from sg3.errors import UserError


def parse_alpha(text: str) -> tuple[float, float]:
    """`"-4..4"` → (−4, 4), `"3"` → (0, 3). Raises ValueError otherwise."""
    first, dots, last = text.partition("..")
    try:
        ends = (float(first), float(last)) if dots else (0.0, float(first))
    except ValueError:
        ends = (math.nan, math.nan)
    if not all(map(math.isfinite, ends)):
        raise UserError(f"alpha: got {text!r}, expected a range like -4..4 or a number like 3")
    return ends


def parse_mix(text: str) -> tuple[int, str]:
    """`"7:L3-L5"` → (7, "L3-L5"): a seed, and the layers that take its styles."""
    match = re.fullmatch(r"(\d{1,10}):(.+)", text)
    if not match or int(match[1]) >= 2**32:
        raise UserError(f"mix: got {text!r}, expected SEED:LAYERS like 7:4-6 or 7:L3-L5")
    return int(match[1]), match[2]


ALPHA, MIX = ParsedType("alpha", parse_alpha), ParsedType("seed:layers", parse_mix)

NO_START = "none; --seed or --latent is required"
INPUT = [
    network_option,
    delta_option,
    option(
        "--latent",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        unset=NO_START,
        help="Latent of sg3 steer, project or edit to start from.",
    ),
    option(
        "--seed",
        "--seeds",
        "seeds",
        type=SEEDS,
        unset=NO_START,
        help="Seeds to start from, such as 3 or 0-3.",
    ),
    config_option(RelevanceConfig, "class_index", "--class"),
    option("--trunc", "psi", type=float, default=1.0, help="Truncation psi of the start."),
    option(
        "--centres",
        type=click.IntRange(1),
        metavar="K",
        unset="the mean of W",
        help="Truncate towards the nearest of K centres of W.",
    ),
    option(
        "--mix",
        "mixes",
        type=MIX,
        multiple=True,
        metavar="SEED:LAYERS",
        help="Take the styles of another seed in some layers, such as 7:4-6; can be repeated.",
    ),
]
DIRECTIONS = [
    option(
        "--direction",
        "directions",
        multiple=True,
        metavar="TEXT|sefa:N|pca:N|label:TEXT|FILE",
        help="Direction: a text (in style space), component N of SeFa or of the PCA of W, counted "
        "from 0, label:TEXT (in W), or a file. Several are added.",
    ),
    option(
        "--neutral",
        "neutrals",
        multiple=True,
        default=["a face"],
        help="Text that describes the image without the edit; once, or once per direction.",
    ),
    option(
        "--alpha",
        "alphas",
        type=ALPHA,
        multiple=True,
        default=["-4..4"],
        metavar="[A..]B",
        help="Strength from A (0 if left out) to B; once, or once per direction.",
    ),
    option(
        "--beta",
        "betas",
        type=float,
        multiple=True,
        default=[0.12],
        help="Threshold of texts: the higher, the fewer channels change; once, or once per "
        "direction.",
    ),
    option(
        "--layers",
        metavar="LAYERS",
        unset="all layers",
        help="Edit these layers only: rows of ws such as 2-5, or names such as L2-L5.",
    ),
    option(
        "--clip",
        default="mini",
        metavar="MODEL[/TAG|/FILE]",
        help="Encoder: mini, any open_clip model, or several with weights: A:2,B.",
    ),
    templates_option,
    config_option(RelevanceConfig, "images"),
    option(
        "--own-statistics",
        is_flag=True,
        help="Compute statistics for the network with its deltas, which takes minutes for each. "
        "By default the statistics of the network without deltas are used; its channels have "
        "nearly the same effects.",
    ),
    option("--force", is_flag=True, help="Accept files made for other weights of the same shapes."),
]
OUTPUT = [
    outdir_option("folder of --sheet, or out/edit-DIRECTION"),
    option(
        "--sheet",
        type=click.Path(dir_okay=False),
        metavar="FILE.png",
        unset="DIR/sheet.png",
        help="Contact sheet: one row per latent, one column per strength.",
    ),
    option("--columns", type=click.IntRange(1), default=9, help="Columns of the sheet."),
    option(
        "--video",
        type=click.Path(dir_okay=False),
        metavar="FILE.mp4",
        unset="no video",
        help="Write a video that goes from A to B and back.",
    ),
    option("--frames", type=click.IntRange(2), default=60, help="Frames of the video from A to B."),
    option("--save-directions", is_flag=True, help="Write each direction to DIR/direction-N."),
    device_option,
    debug_option,
]


def edit_options(function):
    """Decorator with all options, in the order of --help."""
    for add in reversed([*INPUT, *DIRECTIONS, *OUTPUT]):
        function = add(function)
    return function
