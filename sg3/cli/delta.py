"""`sg3 delta`: make, inspect, merge and apply the weight changes of adapted networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from sg3.cli.options import (
    DELTA,
    DELTA_FILE,
    SEEDS,
    ParsedType,
    argument,
    as_option,
    check_files,
    class_option,
    debug_option,
    delta_option,
    device_option,
    fps_option,
    load_generator,
    load_options,
    network_option,
    option,
    trunc_option,
    with_deltas,
)
from sg3.errors import UserError
from sg3.settings import ClassLabel

F = TypeVar("F", bound=Callable[..., Any])
Deltas = Sequence[tuple[str, float]]  # files and strengths


def parse_range(text: str) -> tuple[float, float]:
    """`"0..1.2"` → `(0.0, 1.2)`. Raises ValueError for anything else."""
    from sg3.checkpoints.delta import check_strength

    try:
        first, last = (float(part) for part in text.split(".."))
    except ValueError:
        raise UserError(f"got {text!r}, expected two numbers like 0..1.2") from None
    check_strength(first)
    check_strength(last)
    return first, last


rank_option = option(
    "--rank",
    type=click.IntRange(1),
    help="Store weights as two factors of this rank: smaller, less exact.",
    unset="full rank",
)
force_option = option(
    "--force",
    is_flag=True,
    help="Accept another network of the same shape than the delta was made from.",
)


def out_option(suffix: str, unset: str | None = None) -> Callable[[F], F]:
    """Return the option `--out` for files with this suffix, in a folder that can be written to.

    It is required, unless `unset` says where the file goes without it.
    """

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        from sg3.files import check_folder

        if value is None:
            return None
        if not value.endswith(suffix):
            raise UserError(f"{value}: expected a name ending in {suffix}")
        check_folder(Path(value).parent)
        return value

    return option(
        "--out",
        "--output",
        "out",
        type=click.Path(dir_okay=False),
        required=unset is None,
        unset=unset,
        callback=check,
        metavar=f"FILE{suffix}",
        help="File to write.",
    )


@click.group()
def delta() -> None:
    """Make and use deltas: small files with the weight changes of adapted networks.

    \b
    Examples:
      sg3 delta make --source mini-faces --adapted zombie-net.safetensors --out zombie.safetensors
      sg3 generate --network mini-faces --delta zombie.safetensors:0.7 --seeds 0-7 --outdir out
    """


@delta.command()
@option(
    "--source", required=True, metavar="NAME|FILE|URL", help="The network before the adaptation."
)
@option("--adapted", required=True, metavar="NAME|FILE|URL", help="The network after it.")
@as_option
@rank_option
@option(
    "--dtype",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    help="Data type of the stored numbers.",
)
@out_option(".safetensors")
@debug_option
def make(source: str, adapted: str, rank: int | None, dtype: str, out: str) -> None:
    """Write the difference of two networks of the same shape.

    \b
    Example:
      sg3 delta make --source mini-faces --adapted net.safetensors --rank 8 --out zombie.safetensors
    """
    import torch

    import sg3
    from sg3.checkpoints.delta import difference, kept_fraction, save_delta

    names = (source, adapted)
    check_files(*names)
    before, after = (sg3.load(name, only_ema=True, **load_options()) for name in names)
    meta = {"source": before.meta["name"], "adapted": after.meta["name"]}
    meta |= {"licence": before.meta["licence"]} if "licence" in before.meta else {}
    kind = {"fp16": torch.float16, "fp32": torch.float32}[dtype]
    old, new = before.G_ema, after.G_ema
    made = difference(old, new, rank, kind, meta)
    if not made.changes:
        raise UserError(f"adapted: {adapted} and {source} are the same network")
    save_and_report(save_delta, made, out)
    click.echo(f"{kept_fraction(made, old, new):.2%} of the change is kept")


@delta.command()
@argument("file", type=DELTA_FILE)
@debug_option
def info(file: str) -> None:
    """Print what FILE, or the bundled delta of that name, changes, and in which network.

    \b
    Example:
      sg3 delta info zombie
    """
    from sg3.checkpoints.delta import load_delta
    from sg3.checkpoints.low_rank import LowRank, dense

    loaded = load_delta(file)
    for name, value in loaded.meta.items():
        click.echo(f"{json.dumps(name)[1:-1]}: {json.dumps(value)}")  # escapes control characters
    click.echo(f"weights of the source: {loaded.source_hash}")
    click.echo(f"{_size(file)}, {loaded.num_numbers} numbers, {len(loaded.changes)} tensors:")
    for name, change in sorted(loaded.changes.items()):
        form = f"rank {change.rank}" if isinstance(change, LowRank) else "full rank"
        shape = "x".join(map(str, change.shape)) or "1"
        size = float(dense(change).square().mean().sqrt())
        click.echo(f"  {json.dumps(name)[1:-1]}  {shape}  {form}  RMS {size:.2g}")


@delta.command()
@argument("deltas", nargs=-1, required=True, type=DELTA, metavar="FILE[:STRENGTH] ...")
@rank_option
@out_option(".safetensors")
@debug_option
def merge(deltas: Deltas, rank: int | None, out: str) -> None:
    """Merge several deltas of one network into one, each times its strength.

    \b
    Example:
      sg3 delta merge zombie:0.5 sepia:0.5 --out both.safetensors
    """
    from sg3.checkpoints.delta import load_delta, save_delta
    from sg3.checkpoints.delta import merge as merge_deltas

    loaded = [(load_delta(path), strength) for path, strength in deltas]
    save_and_report(save_delta, merge_deltas(loaded, rank), out)


@delta.command()
@network_option
@delta_option
@force_option
@out_option(".safetensors")
@debug_option
def apply(network: str, deltas: Deltas, force: bool, out: str) -> None:
    """Write a network with deltas added to its weights.

    \b
    Example:
      sg3 delta apply --network mini-faces --delta zombie:0.7 --out net.safetensors
    """
    import sg3

    _require(deltas)
    nets = sg3.load(network, only_ema=True, **load_options())
    meta = {**nets.meta, "deltas": list(deltas)}
    changed = sg3.Networks(G_ema=with_deltas(nets.G_ema, deltas, force), meta=meta)
    save_and_report(sg3.save, changed, out)


@delta.command()
@network_option
@delta_option
@option(
    "--strengths",
    type=ParsedType("from..to", parse_range),
    default="0..1",
    metavar="FROM..TO",
    help="Factors of the deltas' strengths, from the first frame to the last.",
)
@option("--seeds", type=SEEDS, default="0-3", help="Seeds, like 0-7,12.")
@option("--frames", type=click.IntRange(2), default=48, help="Number of frames.")
@fps_option(24)
@option(
    "--columns",
    type=click.IntRange(1),
    help="Images per row.",
    unset="square root of the number of seeds, rounded up",
)
@trunc_option
@class_option
@force_option
@out_option(".mp4")
@device_option
@debug_option
def video(
    network: str,
    deltas: Deltas,
    strengths: tuple[float, float],
    seeds: Sequence[int],
    frames: int,
    fps: float,
    columns: int | None,
    trunc: float,
    class_index: ClassLabel | None,
    force: bool,
    out: str,
    device: str,
) -> None:
    """Make a video of the same seeds while the strength of deltas changes.

    \b
    Example:
      sg3 delta video --delta zombie --strengths 0..1.2 --seeds 0-3 --out zombie.mp4
    """
    import numpy as np
    from tqdm import tqdm

    from sg3.checkpoints.delta import load_delta
    from sg3.media import VideoWriter
    from sg3.slider import slider_frames

    _require(deltas)
    check_files(network)
    loaded = [(load_delta(path), strength) for path, strength in deltas]
    _, G = load_generator(network, device)
    first, last = strengths
    shown = slider_frames(
        G,
        loaded,
        np.linspace(first, last, frames).tolist(),
        seeds,
        truncation_psi=trunc,
        class_index=class_index,
        columns=columns,
        force=force,
    )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(out, fps=fps) as writer:
        for frame in tqdm(shown, total=frames, unit="frame", disable=not sys.stderr.isatty()):
            writer.add(frame)
    click.echo(f"{out}: {frames} frames, {_size(out)}")


def _require(deltas: Deltas) -> None:
    if not deltas:
        raise UserError("--delta: got none, expected at least one FILE or FILE:STRENGTH")


def save_and_report(save: Callable[[Any, str], Any], value: Any, out: str) -> None:
    """Write `value` with `save`, creating the folder, and print the size of the file."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save(value, out)
    click.echo(f"{out}: {_size(out)}")


def _size(path: str) -> str:
    num = Path(path).stat().st_size
    return f"{num / 1e6:.1f} MB" if num >= 1e6 else f"{num / 1e3:.1f} kB"
