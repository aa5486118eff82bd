"""The options of `sg3 train`, in the groups in which --help shows them."""

from __future__ import annotations

import click

from sg3.cli.options import GRID, ParsedType, debug_option, outdir_option
from sg3.errors import UserError

POSITIVE = click.IntRange(min=1)
RATE = click.FloatRange(min=0, min_open=True)


def parse_batch_gpu(text: str) -> int | str:
    """`"auto"`, or a number of images."""
    if text != "auto" and not (text.isdigit() and int(text)):
        raise UserError(f"batch-gpu: got {text!r}, expected a number of images or 'auto'")
    return text if text == "auto" else int(text)


def parse_metrics(text: str) -> tuple[str, ...]:
    """`"fid50k_full,kid50k_full"` → both names; `"none"` → ()."""
    return () if text.lower() == "none" else tuple(name.strip() for name in text.split(","))


def switch(name: str, help: str):
    """An option that is either given, or given a value as official commands do: `--mirror=1`."""
    return click.option(
        name, type=bool, is_flag=False, flag_value=True, default=False, metavar="[=0|1]", help=help
    )


BATCH_GPU = ParsedType("N|auto", parse_batch_gpu)
METRICS = ParsedType("NAMES|none", parse_metrics)
SHARE = click.FloatRange(min=0, max=1)
COUNT = click.IntRange(min=0)

REQUIRED = [
    outdir_option,
    click.option(
        "--cfg",
        type=click.Choice(["stylegan3-t", "stylegan3-r", "stylegan2"]),
        required=True,
        help="Base configuration.",
    ),
    click.option("--data", required=True, metavar="ZIP|DIR|TARS", help="Training images."),
    click.option(
        "--gpus",
        type=POSITIVE,
        help="Processes on this machine, one per GPU (on a CPU, of one thread each); for several "
        "machines start the program with torchrun instead.",
    ),
    click.option("--batch", type=POSITIVE, required=True, help="Images per step, of all GPUs."),
    click.option(
        "--gamma",
        type=click.FloatRange(min=0),
        help="Weight of R1; 0.0002·resolution²/batch if left out.",
    ),
]
FEATURES = [
    switch("--cond", "Train with labels: dataset.json, or sub-folders."),
    switch("--mirror", "Add mirrored copies of the images."),
    switch("--mirror-y", "Add copies turned upside down."),
    click.option("--max-images", type=POSITIVE, help="Use only that many images."),
    click.option(
        "--aug", type=click.Choice(["noaug", "ada", "fixed"]), default="ada", show_default=True
    ),
    click.option("--augpipe", default="bgc", show_default=True, help="blit, bg … bgcfnc."),
    click.option("--p", type=SHARE, default=0.2, show_default=True, help="Of --aug fixed."),
    click.option("--target", type=SHARE, default=0.6, show_default=True, help="Of --aug ada."),
    click.option("--initial-p", type=SHARE, default=0.0, help="Where --aug ada starts."),
    click.option(
        "--resume",
        metavar="latest|NAME|FILE|URL",
        help="'latest' goes on with the newest run of this command in --outdir, exactly "
        "where it stopped (or starts one); a network starts a new run from its weights, and "
        "gives the options of size that are left out; 'latest,NETWORK' does what it can.",
    ),
    click.option("--freezed", type=COUNT, default=0, help="First layers of D that stay frozen."),
    switch("--freeze-mapping", "Keep G's mapping network as it is."),
]
SIZES = [
    click.option("--cbase", type=POSITIVE, help="Capacity of G and D; 32768."),
    click.option("--cmax", type=POSITIVE, help="Most channels of a layer; 512."),
    click.option("--dcbase", type=POSITIVE, help="--cbase of the discriminator."),
    click.option("--dcmax", type=POSITIVE, help="--cmax of the discriminator."),
    click.option("--z-dim", type=POSITIVE, help="Size of z; 512."),
    click.option("--w-dim", type=POSITIVE, help="Size of w; 512."),
    click.option(
        "--num-layers", type=click.IntRange(min=3), help="Layers of StyleGAN3 before ToRGB; 14."
    ),
    click.option("--margin-size", type=COUNT, help="StyleGAN3's border in pixels; 10."),
    click.option("--map-depth", type=POSITIVE, help="Layers of the mapping network; 2, 8 for SG2."),
    click.option("--mbstd-group", type=POSITIVE, default=4, show_default=True),
]
LEARNING = [
    click.option(
        "--loss",
        type=click.Choice(["stylegan2", "rpgan"]),
        default="stylegan2",
        show_default=True,
        help="rpgan pairs every fake with a real image and adds R2.",
    ),
    click.option("--glr", type=RATE, help="Learning rate of G."),
    click.option("--dlr", type=RATE, default=0.002, show_default=True, help="And of D."),
    click.option(
        "--glr-warmup-kimg",
        type=click.FloatRange(min=0),
        default=0,
        show_default=True,
        help="Raise G's learning rate from 0 over this length: useful when --resume brings "
        "a G without its D.",
    ),
    click.option("--d-reg-interval", type=POSITIVE, default=16, show_default=True),
    click.option(
        "--blur-percent",
        type=click.FloatRange(min=0, max=100),
        help="Blur what D sees at first, for that share of the run.",
    ),
    click.option("--ema-kimg", type=RATE, help="Half-life of the averaged generator."),
    click.option("--kimg", type=RATE, default=25000, show_default=True, help="Length."),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Of everything random.",
    ),
]
RUNNING = [
    click.option(
        "--batch-gpu",
        type=BATCH_GPU,
        help="Images per pass, the rest accumulates; auto halves it when memory runs out.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
        default="auto",
        show_default=True,
        help="Of the finer layers on a GPU; auto is fp16. A CPU computes in fp32.",
    ),
    switch("--fp32", "The same as --precision fp32."),
    switch("--compile", "torch.compile the generator."),
    switch("--nobench", "Do not let cuDNN try its algorithms."),
    click.option("--workers", type=COUNT, default=3, show_default=True, help="That decode images."),
    click.option(
        "--cache",
        type=click.Choice(["auto", "ram", "none"]),
        default="auto",
        show_default=True,
        help="Decode all images once into memory; auto: if they fill less than a quarter.",
    ),
    click.option("--threads", type=POSITIVE, help="CPU threads."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:INDEX."),
]
OUTPUT = [
    click.option("--desc", help="Appended to the folder's name."),
    click.option(
        "--metrics",
        type=METRICS,
        default="none",
        show_default=True,
        help="At every save, like fid50k_full (downloads Inception) or fd2k_full_mini (bundled).",
    ),
    click.option("--tick", type=RATE, default=4, show_default=True, help="kimg per report."),
    click.option("--snap", type=POSITIVE, default=50, show_default=True, help="Ticks per save."),
    click.option("--keep-states", type=POSITIVE, default=2, show_default=True),
    click.option(
        "--state-minutes",
        type=click.FloatRange(min=0),
        default=15,
        show_default=True,
        help="Save the state at the next tick when the last one is older.",
    ),
    click.option("--grid", type=GRID, help="Columns and rows of picture grids, like 16x9."),
    click.option("-n", "--dry-run", is_flag=True, help="Print the run's settings and stop."),
    debug_option,
]


def train_options(function):
    """All options, in the order in which --help shows them."""
    for option in reversed([*REQUIRED, *FEATURES, *SIZES, *LEARNING, *RUNNING, *OUTPUT]):
        function = option(function)
    return function
