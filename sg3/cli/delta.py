"""`sg3 delta`: make, look at, merge and apply what an adapted network changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from sg3.cli.options import (
    DELTA,
    SEEDS,
    ParsedType,
    debug_option,
    delta_option,
    device_option,
    network_option,
    resolve_device,
    with_deltas,
)
from sg3.errors import UserError


def parse_range(text: str) -> tuple[float, float]:
    """`"0..1.2"` → `(0.0, 1.2)`. Raises UserError otherwise."""
    from sg3.checkpoints.delta import check_strength

    try:
        first, last = (float(part) for part in text.split(".."))
    except ValueError:
        raise UserError(f"got {text!r}, expected two numbers like 0..1.2") from None
    check_strength(first)
    check_strength(last)
    return first, last


RANK = click.IntRange(1)
rank_option = click.option(
    "--rank", type=RANK, help="Keep weights as two factors of this rank: smaller, less exact."
)
force_option = click.option(
    "--force", is_flag=True, help="Also where the network is not the one it was made from."
)


def out_option(suffix: str):
    """`--out`, for files with this suffix in a folder that exists or can be made."""

    def check(ctx: click.Context, param: click.Parameter, value: str) -> str:
        from sg3.files import check_folder

        if not value.endswith(suffix):
            raise UserError(f"{value}: expected a name ending in {suffix}")
        check_folder(Path(value).parent)
        return value

    return click.option(
        "--out",
        type=click.Path(dir_okay=False),
        required=True,
        callback=check,
        metavar=f"FILE{suffix}",
        help="The file to write.",
    )


@click.group()
def delta() -> None:
    """Small files that hold what an adapted network changed.

    \b
    Example:
      sg3 delta make --source mini-faces --adapted zombie-net.safetensors --out zombie.safetensors
      sg3 generate --network mini-faces --delta zombie.safetensors:0.7 --seeds 0-7 --outdir out
    """


@delta.command()
@click.option("--source", required=True, metavar="NAME|FILE|URL", help="Before the adaptation.")
@click.option("--adapted", required=True, metavar="NAME|FILE|URL", help="After it.")
@rank_option
@click.option(
    "--dtype",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Of the numbers that are kept.",
)
@out_option(".safetensors")
@debug_option
def make(source: str, adapted: str, rank: int | None, dtype: str, out: str) -> None:
    """Write the difference of two networks of one shape.

    \b
    Example:
      sg3 delta make --source mini-faces --adapted net.safetensors --rank 8 --out zombie.safetensors
    """
    import torch

    import sg3
    from sg3.checkpoints.delta import difference, kept_fraction, save_delta

    before, after = sg3.load(source), sg3.load(adapted)
    meta = {"source": before.meta["name"], "adapted": after.meta["name"]}
    meta |= {"licence": before.meta["licence"]} if "licence" in before.meta else {}
    kind = {"fp16": torch.float16, "fp32": torch.float32}[dtype]
    made = difference(before.G_ema, after.G_ema, rank, kind, meta)
    if not made.changes:
        raise UserError(f"adapted: {adapted} and {source} are the same network")
    save_and_say(save_delta, made, out)
    click.echo(f"{kept_fraction(made, before.G_ema, after.G_ema):.2%} of the change is kept")


@delta.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@debug_option
def info(file: str) -> None:
    """Say what FILE changes, and in which network.

    \b
    Example:
      sg3 delta info zombie.safetensors
    """
    from sg3.checkpoints.delta import load_delta
    from sg3.checkpoints.low_rank import LowRank, dense

    loaded = load_delta(file)
    for name, value in loaded.meta.items():
        click.echo(f"{json.dumps(name)[1:-1]}: {json.dumps(value)}")  # no control characters
    click.echo(f"weights of the source: {loaded.source_hash}")
    click.echo(f"{_size(file)}, {loaded.num_numbers} numbers, {len(loaded.changes)} tensors:")
    for name, change in sorted(loaded.changes.items()):
        form = f"rank {change.rank}" if isinstance(change, LowRank) else "whole"
        shape = "x".join(map(str, change.shape)) or "1"
        size = float(dense(change).square().mean().sqrt())
        click.echo(f"  {json.dumps(name)[1:-1]}  {shape}  {form}  RMS {size:.2g}")


@delta.command()
@click.argument("deltas", nargs=-1, required=True, type=DELTA, metavar="FILE[:STRENGTH] ...")
@rank_option
@out_option(".safetensors")
@debug_option
def merge(deltas, rank: int | None, out: str) -> None:
    """Make one delta of several made from one network, each times its strength.

    \b
    Example:
      sg3 delta merge zombie.safetensors:0.5 sketch.safetensors:0.5 --out both.safetensors
    """
    from sg3.checkpoints.delta import load_delta, save_delta
    from sg3.checkpoints.delta import merge as merge_deltas

    loaded = [(load_delta(path), strength) for path, strength in deltas]
    save_and_say(save_delta, merge_deltas(loaded, rank), out)


@delta.command()
@network_option
@delta_option
@force_option
@out_option(".safetensors")
@debug_option
def apply(network: str, deltas, force: bool, out: str) -> None:
    """Write a network with deltas added to it.

    \b
    Example:
      sg3 delta apply --network mini-faces --delta zombie.safetensors:0.7 --out net.safetensors
    """
    import sg3

    _some(deltas)
    nets = sg3.load(network)
    meta = {**nets.meta, "deltas": list(deltas)}
    changed = sg3.Networks(G_ema=with_deltas(nets.G_ema, deltas, force), meta=meta)
    save_and_say(sg3.save, changed, out)


@delta.command()
@network_option
@delta_option
@click.option(
    "--strengths",
    type=ParsedType("from..to", parse_range),
    default="0..1",
    show_default=True,
    metavar="FROM..TO",
    help="Multiply the strengths of the deltas.",
)
@click.option("--seeds", type=SEEDS, default="0-3", show_default=True, help="Like 0-7,12.")
@click.option("--frames", type=click.IntRange(2), default=48, show_default=True)
@click.option("--fps", type=click.FloatRange(0, min_open=True), default=24, show_default=True)
@click.option("--columns", type=click.IntRange(1), help="Of the grid of seeds.")
@click.option("--trunc", type=float, default=1, show_default=True, help="Truncation psi.")
@click.option("--class", "class_index", type=int, metavar="INDEX", help="Class, if conditional.")
@force_option
@out_option(".mp4")
@device_option
@debug_option
def video(network, deltas, strengths, seeds, frames, fps, columns, trunc, out, device, **options):
    """Film a slider over the strength: the same seeds, frame by frame.

    \b
    Example:
      sg3 delta video --delta zombie.safetensors --strengths 0..1.2 --seeds 0-3 --out zombie.mp4
    """
    import numpy as np
    from tqdm import tqdm

    import sg3
    from sg3.checkpoints.delta import load_delta
    from sg3.media import VideoWriter
    from sg3.slider import slider_frames

    _some(deltas)
    loaded = [(load_delta(path), own) for path, own in deltas]
    G = sg3.load(network, resolve_device(device)).G_ema
    steps = np.linspace(*strengths, frames).tolist()
    shown = slider_frames(G, loaded, steps, seeds, truncation_psi=trunc, columns=columns, **options)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(out, fps=fps) as writer:
        for frame in tqdm(shown, total=frames, unit="frame", disable=not sys.stderr.isatty()):
            writer.add(frame)
    click.echo(f"{out}: {frames} frames, {_size(out)}")


def _some(deltas) -> None:
    if not deltas:
        raise UserError("--delta: got none, expected at least one FILE or FILE:STRENGTH")


def save_and_say(save, thing, out: str) -> None:
    """Write `thing` with `save`, making the folder, and print the file's size."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save(thing, out)
    click.echo(f"{out}: {_size(out)}")


def _size(path: str) -> str:
    num = Path(path).stat().st_size
    return f"{num / 1e6:.1f} MB" if num >= 1e6 else f"{num / 1e3:.1f} kB"
