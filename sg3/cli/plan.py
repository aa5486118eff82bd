"""`sg3 plan`: memory, time and file sizes of a training run before it starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg3.cli.options import ParsedType, debug_option, option, resolve_device
from sg3.cli.parsers import parse_size
from sg3.cli.train_options import COUNT, NAMES, SIZES, add_options, of, switch
from sg3.errors import UserError
from sg3.files import write_text
from sg3.training.cards import CARDS, Card
from sg3.training.config import DIFFAUG_POLICIES, TrainConfig

if TYPE_CHECKING:
    from sg3.training.plan import PlanRow, Sizes

DEFAULT_CARD = "A100-80"  # without a GPU and without --gpu

SIZE = ParsedType("N|WxH", lambda text: parse_size(text)[::-1])  # height, width
RUN = [
    of("cfg", required=True),
    option(
        "--resolution",
        type=SIZE,
        required=True,
        help="Size of the images.",
        field="img_resolution",
    ),
    option("--channels", type=click.Choice(["1", "3", "4"]), default="3", help="Image channels."),
    option("--classes", type=click.IntRange(min=0), default=0, help="Number of labels."),
    of("batch", required=True),
    option("--gpus", type=COUNT, default=1, help="Number of GPUs, or of CPU processes."),
    of("kimg"),
    of("aug"),
    of("augpipe"),
    of("diffaug", type=NAMES, default=",".join(DIFFAUG_POLICIES)),
    of("loss"),
    of("freezed"),
    switch("freeze_mapping"),
    of("freeze_g", metavar="LAYERS"),
    of("d_reg_interval"),
    of("precision"),
]
MACHINE = [
    of("device"),
    option(
        "--gpu",
        type=click.Choice(list(CARDS), case_sensitive=False),
        unset=f"the device; {DEFAULT_CARD} if there is no GPU",
        help="Estimate for this card, which need not be in this machine.",
    ),
    option(
        "--measure/--no-measure",
        default=None,
        unset="measure on a GPU, estimate otherwise",
        help="Make real training steps on the device, or estimate.",
    ),
    of("threads"),
    option(
        "--json",
        "json_path",
        type=click.Path(dir_okay=False),
        unset="no file",
        help="Also write the results as JSON.",
    ),
    debug_option,
]


@click.command()
@add_options([*RUN, *SIZES, *MACHINE])
def plan(
    resolution: tuple[int, int],
    channels: str,
    classes: int,
    gpus: int,
    device: str,
    gpu: str | None,
    measure: bool | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Memory and time of a training run before it starts.

    \b
    Examples:
      sg3 plan --cfg stylegan3-t --resolution 1024 --batch 32 --gpus 8 --gpu A100-80
      sg3 plan --cfg stylegan3-t --resolution 64 --batch 8 --cbase 2048 --device cpu --measure
    """
    from sg3.training.plan import plan as rows_of
    from sg3.training.plan import sizes

    if json_path is not None and not Path(json_path).absolute().parent.is_dir():
        raise UserError(f"--json: got {json_path}, but its folder does not exist")
    card, device, measure = _target(device, gpu, measure)
    shape = (int(channels), *resolution)
    config = TrainConfig(outdir="", data="", device=device, cond=classes > 0, **options)
    rows = rows_of(config, shape, gpus, device, measure, card, classes)
    place = device if card is None else card.name
    found = sizes(config, shape, gpus, classes)
    click.echo(_describe(config, shape, gpus, place))
    click.echo(_describe_sizes(found))
    heads = ["images per pass", "memory GiB", "sec/kimg", f"days for {config.kimg:g} kimg"]
    if card is not None:
        heads += ["official GiB", "official sec/kimg"]
    click.echo("".join(f"{head:>{len(head) + 3}}" for head in heads))
    table = []
    for row in rows:
        table.append(dataclasses.asdict(row))
        click.echo(_line(row, heads))
    click.echo(_remark(measure, card, device))
    if json_path is not None:
        record = {
            "cfg": config.cfg,
            "image_shape": shape,
            "batch": config.batch,
            "gpus": gpus,
            "kimg": config.kimg,
            "place": place,
            "sizes": {**dataclasses.asdict(found), "source": "counted"},
            "rows": table,
        }
        write_text(json_path, json.dumps(record, indent=2) + "\n")


def _target(device: str, gpu: str | None, measure: bool | None) -> tuple[Card | None, str, bool]:
    """Return the card to estimate for, if it is one; the device; and whether to measure on it."""
    import torch

    if gpu is not None:
        if measure or device != "auto":
            raise UserError(
                f"--gpu: got {gpu} and {'--measure' if measure else f'--device {device}'}; --gpu "
                "estimates for a card that need not be here, omit one of the two"
            )
        return CARDS[gpu], "cuda", False
    if device == "auto":
        if not torch.cuda.is_available() and not measure:
            return CARDS[DEFAULT_CARD], "cuda", False
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = resolve_device(device).type
    if kind == "mps":
        raise UserError("--device: got 'mps', expected auto, cpu or cuda:INDEX, or a card in --gpu")
    return None, device, kind == "cuda" if measure is None else measure


def _describe(config: TrainConfig, shape: tuple[int, int, int], gpus: int, place: str) -> str:
    channels, height, width = shape
    each = f", {config.batch // gpus} on each of {gpus} GPUs" if gpus > 1 else ""
    return f"{config.cfg}, {width}x{height}x{channels}, batch {config.batch}{each}: on {place}"


def _describe_sizes(found: Sizes) -> str:
    mib = 2**20
    return (
        f"counted: {found.g_parameters / 1e6:.1f} M parameters of G, "
        f"{found.d_parameters / 1e6:.1f} M of D; state file {found.state_bytes / mib:.0f} MiB, "
        f"network file {found.snapshot_bytes / mib:.0f} MiB"
    )


def _line(row: PlanRow, heads: list[str]) -> str:
    figures = [row.memory_gib, row.seconds_per_kimg, row.days]
    figures += [row.official_gib, row.official_seconds_per_kimg]
    cells = [str(row.images_per_pass), *("-" if x is None else f"{x:.2f}" for x in figures)]
    # Without a card there are no columns of the official implementation.
    columns = "".join(f"{c:>{len(h) + 3}}" for c, h in zip(cells, heads, strict=False))
    return f"{columns}   {row.source}" + (f"; {row.note}" if row.note else "")


def _remark(measure: bool, card: Card | None, device: str) -> str:
    text = "Not included: reading images, metrics, and files written at ticks."
    if card is not None or device != "cpu":
        text += " Memory is that of tensors: reserve a tenth for workspaces, and 0.5 GiB."
    else:
        text += " Memory is that of a whole process."
    if card is not None:
        text += (
            " official: the official implementation, fitted to its published times and memory on "
            "A100 and V100. Ours assumes that our kernels are as efficient; unmeasured on a GPU."
        )
    elif not measure and device != "cpu":
        text += " Estimates are from rates measured here; no GPU has confirmed them yet."
    return text
