"""Options of `sg3 train`, in the groups in which --help shows them.

Defaults, texts and ranges are those of `sg3.training.config.TrainConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from sg3.cli.options import GRID, ParsedType, config_option, debug_option, option
from sg3.errors import UserError
from sg3.training.config import DIFFAUG_POLICIES, TrainConfig

of = partial(config_option, TrainConfig)


def parse_batch_gpu(text: str) -> int | str:
    """Parse `"auto"` or a number of images."""
    if text != "auto" and not (text.isdigit() and int(text)):
        raise UserError(f"got {text!r}, expected a number of images or 'auto'")
    return text if text == "auto" else int(text)


def parse_names(text: str) -> tuple[str, ...]:
    """Parse `"color,cutout"` into names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_names_or_none(text: str) -> tuple[str, ...]:
    """Parse `"fid50k_full,kid50k_full"` into names; `"none"` into ()."""
    return () if text.lower() == "none" else tuple(name.strip() for name in text.split(","))


def parse_lengths(text: str) -> tuple[float, ...]:
    """Parse `"0.05,0.1"`; `"none"` into ()."""
    if text.lower() == "none":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"got {text!r}, expected lengths like 0.05,0.1") from None


BATCH_GPU = ParsedType("N|auto", parse_batch_gpu)
NAMES = ParsedType("NAMES", parse_names)
NAMES_OR_NONE = ParsedType("NAMES|none", parse_names_or_none)
LENGTHS = ParsedType("LENGTHS|none", parse_lengths)
#: For switches that may have a value, as in official commands: `--mirror=1`.
SWITCH: dict[str, Any] = {
    "type": bool, "is_flag": False, "flag_value": True, "metavar": "[=0|1]",
}  # fmt: skip
COUNT = click.IntRange(min=1)
DEFAULT_LENGTHS = "0.05,0.1"  # of --posthoc-ema without a value: those of the paper


def switch(name: str) -> Callable:
    """Return the option of a bool field that may have a value."""
    return of(name, "--" + name.replace("_", "-"), **SWITCH)


REQUIRED = [
    of("outdir", type=click.Path(file_okay=False), required=True, metavar="DIR"),
    of("cfg", required=True),
    of("data", required=True, metavar="ZIP|DIR|TARS"),
    option(
        "--gpus",
        type=COUNT,
        unset="1, or the processes of torchrun",
        help="Number of processes on this machine, one per GPU; on a CPU with one thread each. "
        "For several machines start the program with torchrun.",
    ),
    of("batch", required=True),
    of("gamma"),
    of("budget"),
]
FEATURES = [
    switch("cond"),
    switch("mirror"),
    switch("mirror_y"),
    of("max_images", field="max_size"),  # as `open_dataset` calls it
    of("aug"),
    of("augpipe"),
    of("diffaug", type=NAMES, default=",".join(DIFFAUG_POLICIES)),
    of("p"),
    of("target"),
    of("initial_p"),
    of("resume", metavar="latest|NAME|FILE|URL"),
    of("freezed"),
    switch("freeze_mapping"),
    of("freeze_g", metavar="LAYERS"),
]
SIZES = [
    of(name)
    for name in (
        "cbase", "cmax", "dcbase", "dcmax", "z_dim", "w_dim", "num_layers", "margin_size",
        "map_depth", "mbstd_group",
    )
]  # fmt: skip
LEARNING = [
    of(name)
    for name in (
        "loss", "discriminator", "features", "gamma_end", "gamma_kimg", "style_mixing_prob",
        "pl_weight", "glr", "dlr", "glr_warmup_kimg", "d_first_kimg", "d_reg_interval",
        "blur_percent", "ema_kimg", "kimg", "seed",
    )
]  # fmt: skip
POSTHOC_EMA = of(
    "posthoc_ema", type=LENGTHS, default="none", is_flag=False, flag_value=DEFAULT_LENGTHS,
    metavar="[=LENGTHS]",
)  # fmt: skip
RUNNING = [
    of("batch_gpu", type=BATCH_GPU),
    of("precision"),
    option("--fp32", default=False, help="Same as --precision fp32.", **SWITCH),
    switch("compile"),
    switch("nobench"),
    of("workers"),
    of("cache"),
    of("threads"),
    of("device"),
]
OUTPUT = [
    of("desc"),
    of("metrics", type=NAMES_OR_NONE, default="none"),
    of("metric_every"),
    of("tick"),
    of("snap"),
    of("keep_states"),
    of("state_minutes"),
    of("grid", type=GRID),
    of("log", "--log", "--loggers", type=NAMES_OR_NONE),
    click.option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Print the settings of the run and an estimate of its cost, as JSON, and exit.",
    ),
    debug_option,
]


def add_options(options: list[Callable]) -> Callable[[Callable], Callable]:
    """Return a decorator that adds `options`, which --help shows in this order."""

    def decorate(function: Callable) -> Callable:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


train_options = add_options(
    [*REQUIRED, *FEATURES, *SIZES, *LEARNING, POSTHOC_EMA, *RUNNING, *OUTPUT]
)
