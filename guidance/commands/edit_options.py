"""Options of `sg3 edit`."""

from __future__ import annotations

import math
import re
from pathlib import Path

import click

from sg3.cli.options import (
    SEEDS,
    ParsedType,
    debug_option,
    delta_option,
    device_option,
    network_option,
)
from sg3.errors import UserError


def parse_alpha(text: str) -> tuple[float, float]:
    """`"-4..4"` → (−4, 4); one number is from 0 to it. Raises UserError otherwise."""
    first, dots, last = text.partition("..")
    try:
        ends = (float(first), float(last)) if dots else (0.0, float(first))
    except ValueError:
        ends = (math.nan, math.nan)
    if not all(map(math.isfinite, ends)):
        raise UserError(f"alpha: got {text!r}, expected a range like -4..4 or a number like 3")
    return ends


def parse_mix(text: str) -> tuple[int, str]:
    """`"7:L3-L6"` → (7, "L3-L6"): a seed, and the layers that take its styles."""
    match = re.fullmatch(r"(\d{1,10}):(.+)", text)
    if not match or int(match[1]) >= 2**32:
        raise UserError(f"mix: got {text!r}, expected SEED:LAYERS like 7:4-6 or 7:L3-L6")
    return int(match[1]), match[2]


def parse_templates(text: str) -> str | tuple[str, ...]:
    """A name in `guidance.templates`, or the lines of a file. Raises UserError for neither, or for
    a line without one `{}`."""
    from guidance.templates import TEMPLATES, templates_of

    if text in TEMPLATES:
        return text
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        known = ", ".join(TEMPLATES)
        raise UserError(f"got {text!r}, expected {known} or a file of lines with {{}}") from None
    sentences = [line.strip() for line in lines if line.strip()]
    for sentence in sentences:
        if sentence.count("{}") != 1:
            raise UserError(f"got line {sentence[:60]!r} of {text}, expected one {{}} in each line")
    return templates_of(sentences)


ALPHA, MIX = ParsedType("alpha", parse_alpha), ParsedType("seed:layers", parse_mix)

WHAT = [
    network_option,
    delta_option,
    click.option(
        "--latent",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="What to edit: a latent of sg3 steer, project or edit.",
    ),
    click.option("--seed", "--seeds", "seeds", type=SEEDS, help="Or seeds, like 3 or 0-3."),
    click.option("--class", "class_index", type=int, help="Class of a conditional network."),
    click.option("--trunc", "psi", type=float, default=1, show_default=True),
    click.option(
        "--centres",
        type=click.IntRange(1),
        metavar="K",
        help="Truncate towards the nearest of K centres of W instead of its mean.",
    ),
    click.option(
        "--mix",
        "mixes",
        type=MIX,
        multiple=True,
        metavar="SEED:LAYERS",
        help="Take the styles of another seed in some layers, like 7:4-6; several in turn.",
    ),
]
HOW = [
    click.option(
        "--direction",
        "directions",
        multiple=True,
        metavar="TEXT|sefa:N|pca:N|label:TEXT|FILE",
        help="A text (in style space), SeFa's or W's component N from 0, a text in W, or a file; "
        "several add up.",
    ),
    click.option(
        "--neutral",
        "neutrals",
        multiple=True,
        default=["a face"],
        show_default=True,
        help="What texts start from; once, or for each direction.",
    ),
    click.option(
        "--alpha",
        "alphas",
        type=ALPHA,
        multiple=True,
        default=["-4..4"],
        show_default=True,
        metavar="A..B|B",
        help="Strength, from A (0 if left out) to B; once, or for each direction.",
    ),
    click.option(
        "--beta",
        "betas",
        type=float,
        multiple=True,
        default=[0.12],
        show_default=True,
        help="A larger one changes fewer channels; once, or for each direction.",
    ),
    click.option("--layers", metavar="LAYERS", help="Only there: rows 2-5 or names L2-L5."),
    click.option(
        "--clip",
        default="mini",
        show_default=True,
        metavar="MODEL[/TAG|/FILE]",
        help="mini, any open_clip model, or several: A:2,B",
    ),
    click.option(
        "--templates",
        type=ParsedType("templates", parse_templates),
        default="plain",
        show_default=True,
        metavar="plain|mini|imagenet|FILE",
        help='Sentences around each text, to average over: imagenet suits texts like "smiling '
        'face"; or lines of a file, with {} for the text.',
    ),
    click.option(
        "--images",
        type=click.IntRange(1),
        help="Latents of a network's statistics.  [default: 32]",
    ),
    click.option(
        "--own-statistics",
        is_flag=True,
        help="Of the network with its deltas, which takes minutes for each; otherwise of the "
        "network that they change: its channels mean nearly the same.",
    ),
    click.option("--force", is_flag=True, help="Take files of other weights of the same shapes."),
]
OUTPUT = [
    click.option("--outdir", type=click.Path(file_okay=False), metavar="DIR"),
    click.option("--sheet", type=click.Path(dir_okay=False), help="[default: DIR/sheet.png]"),
    click.option("--columns", type=click.IntRange(1), default=9, help="Of the sheet."),
    click.option("--video", type=click.Path(dir_okay=False), metavar="FILE.mp4"),
    click.option("--frames", type=click.IntRange(2), default=60, help="Of the video, one way."),
    click.option("--save-directions", is_flag=True, help="Write each as DIR/direction-N."),
    device_option,
    debug_option,
]


def edit_options(function):
    """All of them, in the order in which --help shows them."""
    for option in reversed([*WHAT, *HOW, *OUTPUT]):
        function = option(function)
    return function
