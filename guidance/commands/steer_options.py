"""Options of `sg3 steer`."""

from __future__ import annotations

import click

from guidance.commands.edit_options import parse_templates
from sg3.cli.options import (
    ParsedType,
    debug_option,
    delta_option,
    device_option,
    network_option,
    precision_option,
    seed_option,
)
from sg3.errors import UserError

WEIGHT = click.FloatRange(min=0)
SHARE = click.FloatRange(min=0, max=1)


def parse_times(text: str) -> tuple[int, ...]:
    """`"0,40,100"` → (0, 40, 100). Raises UserError otherwise."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"times: got {text!r}, expected steps like 0,40,100") from None


def parse_video(text: str) -> str:
    """A file's name. Raises UserError for what looks like a prompt that stands behind the flag."""
    if text and not text.lower().endswith(".mp4"):
        raise UserError(
            f"video: got {text!r}, expected a name ending in .mp4; texts come before --video"
        )
    return text


WHAT = [
    click.option(
        "--image",
        "images",
        multiple=True,
        metavar="FILE[:WEIGHT]",
        help="A picture that pulls like a text.",
    ),
    network_option,
    delta_option,
    click.option(
        "--clip",
        "clips",
        multiple=True,
        default=["mini"],
        show_default=True,
        metavar="MODEL[/TAG|/FILE][:WEIGHT]",
        help="mini, mini-smooth, any open_clip model (SigLIP too); several together.",
    ),
    click.option(
        "--templates",
        type=ParsedType("templates", parse_templates),
        metavar="plain|mini|imagenet|FILE",
        help="Sentences around each text, to average over.  [default: plain]",
    ),
    click.option("--steps", type=click.IntRange(0), default=60, show_default=True),
    seed_option,
    click.option(
        "--variants",
        type=click.IntRange(1),
        default=1,
        help="So many results side by side, from this seed on.",
    ),
    click.option("--class", "class_index", type=int, help="Class of a conditional network."),
]
START = [
    click.option(
        "--start",
        type=click.Choice(["best", "seed", "mean"]),
        help="Best of the candidates, the seed's own picture, or the mean.",
    ),
    click.option("--latent", metavar="FILE", help="Start from a latent of steer, project or edit."),
    click.option("--candidates", type=click.IntRange(1), help="How many to choose the start from."),
    click.option(
        "--generations", type=click.IntRange(0), help="How often to cross the best of them."
    ),
    click.option("--trunc", "truncation", type=float, help="Truncation psi of the start."),
]
MOVING = [
    click.option(
        "--space",
        type=click.Choice(["w", "w+", "s"]),
        help="One latent, one per layer, or every channel's style.",
    ),
    click.option("--basis", type=click.Choice(["pca", "std"]), help="Coordinates of the latent."),
    click.option(
        "--transform/--no-transform",
        default=None,
        help="Let the input transform of a StyleGAN3 move freely, or hold it.  [default: it "
        "follows w]",
    ),
    click.option("--layers", metavar="LAYERS", help="Only these move: rows 4-9 or names L4-L9."),
    click.option("--lr", type=float, help="Learning rate, in standard deviations of W."),
    click.option("--schedule", type=click.Choice(["ramp", "cosine", "constant"])),
    click.option("--ema", type=float, help="Share of the old in the average that is shown."),
    click.option(
        "--patience", type=click.IntRange(0), help="Stop after so many steps without progress."
    ),
]
KEEPING = [
    click.option(
        "--region",
        metavar="X0,Y0,X1,Y1|FILE",
        help="Judge only this part (a box, or a picture, white inside) and hold the rest.",
    ),
    click.option("--outside", type=WEIGHT, help="How much the rest is held."),
    click.option("--keep", type=WEIGHT, help="Pull towards the start: the rest stays."),
    click.option("--perceptual", type=WEIGHT, help="Pull towards how the start looks (LPIPS)."),
    click.option("--perceptual-distance", type=click.Choice(["auto", "lpips", "scales"])),
    click.option("--identity", type=WEIGHT, help="Pull towards who the start shows."),
    click.option(
        "--identity-encoder",
        metavar="FILE|MODEL",
        help="A TorchScript face encoder, or an image-text model.",
    ),
    click.option("--prior", type=WEIGHT, help="Pull towards the mean of W."),
    click.option("--max-sigma", type=float, help="Largest distance from the mean of W; 0: none."),
]
JUDGING = [
    click.option(
        "--distance",
        type=click.Choice(["spherical", "cosine", "directional"]),
        help="Of embeddings; directional compares changes since --source.",
    ),
    click.option("--source", metavar="TEXT", help="What texts start from, such as 'a face'."),
    click.option("--cutouts", type=click.IntRange(1), help="Views per step."),
    click.option("--augment", type=click.Choice(["none", "light", "strong"])),
    click.option("--perspective", type=SHARE, help="Tilt views by up to this share (0.5)."),
    click.option("--flip", type=SHARE, help="Mirror this share of the views."),
    click.option("--jitter", type=SHARE, help="Change their colours by up to this share."),
    click.option("--noise", type=SHARE, help="Add noise of this deviation."),
]
DISSOLVE = [
    click.option(
        "--dissolve",
        type=click.IntRange(1),
        metavar="STEPS",
        help="Go from prompt to prompt, so many steps for each.",
    ),
    click.option(
        "--times",
        type=ParsedType("times", parse_times),
        metavar="0,T,...",
        help="Steps at which the prompts take over.",
    ),
    click.option("--fade", type=SHARE, default=0.5, help="Share of a section that cross-fades."),
    click.option(
        "--motion",
        type=click.Choice(["shift", "circle", "turn", "both"]),
        help="Move the input of a StyleGAN3 meanwhile.",
    ),
    click.option("--amount", type=float, default=0.1, help="How far, in larger sides."),
]
OUTPUT = [
    click.option(
        "--outdir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where to write; made if missing.  [default: out/steer-PROMPT]",
    ),
    click.option(
        "--video",
        is_flag=False,
        flag_value="",
        default="",
        type=ParsedType("video", parse_video),
        metavar="[FILE.mp4]",
        help="Where the video goes.  [default: DIR/steer.mp4]",
    ),
    click.option("--no-video", is_flag=True, help="Write none."),
    click.option("--resume", is_flag=True, help="Go on with what was stopped in DIR."),
    click.option("--force", is_flag=True, help="Take a latent of another network of its shape."),
    precision_option,
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="torch.compile the generator, with CUDA graphs: for many steps on a GPU.",
    ),
    device_option,
    debug_option,
]


def steer_options(function):
    """All of them, in the order in which --help shows them."""
    for option in reversed([*WHAT, *START, *MOVING, *KEEPING, *JUDGING, *DISSOLVE, *OUTPUT]):
        function = option(function)
    return function
