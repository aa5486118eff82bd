"""`sg3 train`: options of the official trainer, drained from `sg3.training.train`."""

from __future__ import annotations

import signal
import sys
import time

import click

from sg3.cli.options import ParsedType, debug_option, outdir_option, seed_option
from sg3.errors import UserError


def parse_grid(text: str) -> tuple[int, int]:
    """`"16x9"` → (16, 9): columns and rows."""
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdigit() and rows.isdigit() and int(columns) and int(rows)):
        raise UserError(f"grid: got {text!r}, expected columns and rows like 16x9")
    return int(columns), int(rows)


GRID = ParsedType("WxH", parse_grid)
POSITIVE = click.IntRange(min=1)
RATE = click.FloatRange(min=0, min_open=True)


def _options(function):
    """The options in groups, official names first."""
    options = [
        outdir_option,
        click.option(
            "--cfg",
            type=click.Choice(["stylegan3-t", "stylegan3-r", "stylegan2"]),
            required=True,
            help="Base configuration.",
        ),
        click.option("--data", required=True, metavar="ZIP|DIR", help="Training images."),
        click.option("--batch", type=POSITIVE, required=True, help="Images per step."),
        click.option(
            "--gamma",
            type=click.FloatRange(min=0),
            help="Weight of R1; 0.0002·resolution²/batch if left out.",
        ),
        click.option("--cond", is_flag=True, help="Train with labels from dataset.json."),
        click.option("--mirror", is_flag=True, help="Add mirrored copies of the images."),
        click.option(
            "--aug",
            type=click.Choice(["noaug", "ada", "fixed"]),
            default="noaug",
            show_default=True,
            help="Augmentation (only noaug so far).",
        ),
        click.option(
            "--resume",
            metavar="latest|NAME|FILE|URL",
            help="'latest' goes on with the newest run of this command in --outdir, exactly "
            "where it stopped (or starts one); a network starts a new run from its weights.",
        ),
        click.option("--freezed", type=click.IntRange(min=0), default=0, help="Freeze-D layers."),
        click.option("--batch-gpu", type=POSITIVE, help="Images per pass; the rest accumulates."),
        click.option("--cbase", type=POSITIVE, default=32768, show_default=True, help="Capacity."),
        click.option(
            "--cmax", type=POSITIVE, default=512, show_default=True, help="Most channels."
        ),
        click.option("--dcbase", type=POSITIVE, help="--cbase of the discriminator."),
        click.option("--dcmax", type=POSITIVE, help="--cmax of the discriminator."),
        click.option("--z-dim", type=POSITIVE, default=512, show_default=True),
        click.option("--w-dim", type=POSITIVE, default=512, show_default=True),
        click.option("--num-layers", type=POSITIVE, help="Layers of StyleGAN3 before ToRGB."),
        click.option(
            "--margin-size", type=click.IntRange(min=0), help="StyleGAN3's border in pixels."
        ),
        click.option("--map-depth", type=POSITIVE, help="Layers of the mapping network."),
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
        click.option("--mbstd-group", type=POSITIVE, default=4, show_default=True),
        click.option("--d-reg-interval", type=POSITIVE, default=16, show_default=True),
        click.option("--loss", type=click.Choice(["stylegan2"]), default="stylegan2"),
        click.option("--ema-kimg", type=RATE, help="Half-life of the averaged generator."),
        click.option("--desc", help="Appended to the folder's name."),
        click.option("--kimg", type=RATE, default=25000, show_default=True, help="Length."),
        click.option("--tick", type=RATE, default=4, show_default=True, help="kimg per report."),
        click.option(
            "--snap", type=POSITIVE, default=50, show_default=True, help="Ticks per save."
        ),
        click.option("--grid", type=GRID, help="Columns and rows of picture grids, like 16x9."),
        click.option("--max-images", type=POSITIVE, help="Use only that many images."),
        click.option(
            "--cache",
            type=click.Choice(["auto", "ram", "none"]),
            default="auto",
            show_default=True,
            help="Decode all images once into memory; auto: if they fill less than a quarter.",
        ),
        seed_option,
        click.option("--fp32", is_flag=True, help="No half precision."),
        click.option("--threads", type=POSITIVE, help="CPU threads."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:INDEX."),
        debug_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@_options
def train(device: str, **options) -> None:
    """Train a network. Interrupting (Ctrl-C, SIGTERM) saves the state first.

    \b
    Example:
      sg3 train --cfg stylegan3-t --data faces.zip --batch 32 --gamma 8.2 --outdir runs
      sg3 train --cfg stylegan3-t --data faces.zip --batch 32 --gamma 8.2 --outdir runs \\
        --resume latest
    """
    from sg3.cli.options import resolve_device
    from sg3.files import check_folder
    from sg3.training import TrainConfig
    from sg3.training import train as run

    check_folder(options["outdir"])
    config = TrainConfig(device=str(resolve_device(device)), **options)
    stop = _StopRequest()
    try:
        _drain(run(config, stop=stop), config)
    finally:
        stop.restore()


class _StopRequest:
    """True after SIGINT or SIGTERM; a second SIGINT interrupts at once."""

    def __init__(self):
        self.asked = False
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number, frame) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        click.echo("finishing this step, then saving …", err=True)

    def __call__(self) -> bool:
        return self.asked

    def restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _drain(steps, config) -> None:
    """Print what `train` yields; a running line between ticks on a terminal."""
    interactive, started, folder = sys.stderr.isatty(), time.time(), None
    for step in steps:
        if folder is None:
            folder = step.folder
            click.echo(f"{folder}: {step.start}")
        if step.line is not None:
            click.echo(step.line)
        elif interactive:
            speed = step.session_nimg / max(time.time() - started, 1e-6)
            text = (
                f"\r{step.nimg / 1000:.1f} of {step.total_nimg / 1000:g} kimg, {speed:.1f} img/s "
            )
            click.echo(text, nl=False, err=True)
        if step.snapshot is not None:
            click.echo(f"wrote {step.snapshot}")
        if step.stopped:
            click.echo(
                f"stopped at {step.nimg / 1000:.1f} kimg; state saved in {folder}. "
                "To go on, repeat the command with --resume latest"
            )
