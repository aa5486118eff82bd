"""Options of `sg3 adapt`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from guidance.commands.common import parse_templates
from nada.config import MINI, PUBLISHED, AdaptConfig, RecordConfig, StopRule, ViewConfig, Weights
from sg3.cli.options import (
    ParsedType,
    config_option,
    debug_option,
    device_option,
    network_option,
    option,
    seed_option,
)

Decorator = Callable[[Callable], Callable]
#: Parts of an `AdaptConfig`. The option for field F of part P has the parameter name P__F.
PARTS = {"weights": Weights, "views": ViewConfig, "stop": StopRule}


def setting_option(name: str, *declarations: str, **kwargs: Any) -> Decorator:
    """Option for a field of `AdaptConfig`; None, its default, stands for the recommended value."""
    return config_option(AdaptConfig, name, *declarations, **_recommended(name), **kwargs)


def part_option(part: str, name: str, *declarations: str) -> Decorator:
    """Option for a field of a part of `AdaptConfig`, like `setting_option`."""
    param = f"{part}__{name}"
    more = _recommended(name, part)
    return config_option(PARTS[part], name, *declarations, param=param, **more)


def _recommended(name: str, part: str | None = None) -> dict[str, Any]:
    """Default and help of an option whose recommended value depends on the encoder."""
    bases = [getattr(base, part) if part else base for base in (MINI, PUBLISHED)]
    mini, published = (getattr(base, name) for base in bases)
    if mini is None and published is None:
        return {"default": None}
    if mini == published:
        return {"default": None, "unset": _text(mini)}
    unset = f"{_text(mini)} for the bundled encoders, else {_text(published)}"
    return {"default": None, "unset": unset}


def _text(value: Any) -> str:
    if value is None:
        return "not used"
    return f"{value:g}" if isinstance(value, float) else str(value)


def record_option(name: str, *declarations: str) -> Decorator:
    """Option for a field of `RecordConfig`."""
    return config_option(RecordConfig, name, *declarations, param=f"record__{name}")


UNLESS_IMAGES = "none; required without --target-images"
GOAL = [
    option(
        "--source",
        metavar="TEXT",
        help="What the network shows now, for example 'face'.",
        unset=UNLESS_IMAGES,
    ),
    option(
        "--target",
        metavar="TEXT",
        help="What it should show, for example 'zombie'.",
        unset=UNLESS_IMAGES,
    ),
    option(
        "--target-images",
        type=click.Path(exists=True),
        metavar="DIR|ZIP",
        help="Images of the target, in place of --source and --target.",
        unset="none",
    ),
    network_option,
    option(
        "--clip",
        multiple=True,
        default=["mini-smooth"],
        metavar="MODEL[/TAG|/FILE]",
        help="Encoder: mini-smooth, mini or any open_clip model. Several, weighted: A:2,B, or "
        "repeat the option.",
    ),
    option(
        "--outdir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Output folder, created if missing.",
        unset="out/adapt-TARGET",
    ),
    option(
        "--resume",
        is_flag=True,
        help="Resume the run in --outdir, with the same arguments, bit for bit; --steps and the "
        "stop rule may differ. Starts a new run if there is none.",
    ),
]
TRAINING = [
    setting_option("steps"),
    seed_option,
    setting_option("batch"),
    setting_option("lr"),
    setting_option("coarse_lr"),
    setting_option("warmup"),
    setting_option("decay"),
    setting_option("ema"),
    setting_option("layers", metavar="LAYERS"),
    setting_option("auto_k"),
    setting_option("auto_every"),
    setting_option("truncation", "--trunc", "--truncation"),
    setting_option("class_index", "--class"),
]
LOSS = [
    setting_option(
        "templates",
        type=ParsedType("templates", parse_templates),
        metavar="NAME|FILE",
        help="Prompt templates: imagenet, mini, plain, or a text file of lines that contain {}.",
    ),
    setting_option("magnitude"),
    part_option("weights", "directional"),
    part_option("weights", "magnitude", "--magnitude-weight"),
    part_option("weights", "global_text", "--global"),
    part_option("weights", "patch"),
    part_option("weights", "texture"),
    part_option("weights", "manifold"),
    part_option("weights", "strokes"),
    part_option("weights", "range"),
    part_option("views", "views"),
    part_option("views", "cutouts"),
    part_option("views", "augment"),
]
STOP = [
    click.option("--no-stop", is_flag=True, help="Disable early stopping: make all --steps."),
    part_option("stop", "diversity", "--diversity-floor"),
    part_option("stop", "patience"),
    setting_option("check_every"),
]
OUTPUT = [
    record_option("image_every"),
    record_option("video", "--video/--no-video"),
    record_option("rank"),
    record_option("delta_dtype"),
    device_option,
    debug_option,
]


def adapt_options(function: Callable) -> Callable:
    """Decorator that adds all options, in the order in which --help shows them."""
    decorators: list[Callable] = [*GOAL, *TRAINING, *LOSS, *STOP, *OUTPUT]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function
