"""`sg3 plan`: memory, time and file sizes of a run, drained from `sg3.training.plan`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sg3.cli.options import ParsedType, debug_option, parse_size, resolve_device
from sg3.cli.train_options import POSITIVE, RATE, SIZES
from sg3.errors import UserError

if TYPE_CHECKING:
    from sg3.training.plan import PlanRow, Sizes

CARD_NAMES = ("H200", "H100", "A100-80", "A100-40", "RTX4090", "RTX3090", "V100", "T4")
ASSUMED_CARD = "A100-80"  # where there is no GPU and none is named


SIZE = ParsedType("N|WxH", lambda text: parse_size(text)[::-1])  # height, width
RUN = [
    click.option(
        "--cfg",
        type=click.Choice(["stylegan3-t", "stylegan3-r", "stylegan2"]),
        required=True,
        help="Base configuration.",
    ),
    click.option("--resolution", type=SIZE, required=True, help="Of the images."),
    click.option("--channels", type=click.Choice(["1", "3", "4"]), default="3", show_default=True),
    click.option("--classes", type=click.IntRange(min=0), default=0, help="Labels of --cond."),
    click.option("--batch", type=POSITIVE, required=True, help="Images per step, of all GPUs."),
    click.option("--gpus", type=POSITIVE, default=1, show_default=True),
    click.option("--kimg", type=RATE, default=25000, show_default=True, help="Length of the run."),
    click.option(
        "--aug", type=click.Choice(["noaug", "ada", "fixed"]), default="ada", show_default=True
    ),
    click.option("--augpipe", default="bgc", show_default=True, help="blit, bg … bgcfnc."),
    click.option("--loss", type=click.Choice(["stylegan2", "rpgan"]), default="stylegan2"),
    click.option("--freezed", type=click.IntRange(min=0), default=0, help="Frozen layers of D."),
    click.option("--freeze-mapping", is_flag=True, help="Keep G's mapping network as it is."),
    click.option("--d-reg-interval", type=POSITIVE, default=16, show_default=True),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
        default="auto",
        show_default=True,
    ),
]
MACHINE = [
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:INDEX."),
    click.option(
        "--gpu",
        type=click.Choice(CARD_NAMES, case_sensitive=False),
        help=f"Estimate for this card; {ASSUMED_CARD} where there is no GPU.",
    ),
    click.option(
        "--measure/--no-measure",
        default=None,
        help="Make real steps on the device, which a GPU that is there does anyway; or estimate.",
    ),
    click.option("--threads", type=POSITIVE, help="CPU threads."),
    click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Write this too."),
    debug_option,
]


def _options(function):
    """All options, in the order in which --help shows them."""
    for option in reversed([*RUN, *SIZES, *MACHINE]):
        function = option(function)
    return function


@click.command()
@_options
def plan(resolution, channels, classes, gpus, device, gpu, measure, json_path, **options) -> None:
    """Memory and time of a training run before it starts.

    \b
    Examples:
      sg3 plan --cfg stylegan3-t --resolution 1024 --batch 32 --gpus 8 --gpu A100-80
      sg3 plan --cfg stylegan3-t --resolution 64 --batch 8 --cbase 2048 --device cpu --measure
    """
    import torch

    from sg3.training.config import TrainConfig
    from sg3.training.plan import plan as rows_of
    from sg3.training.plan import sizes
    from sg3.training.plan_rates import CARDS

    if json_path is not None and not Path(json_path).absolute().parent.is_dir():
        raise UserError(f"--json: got {json_path}, but there is no such folder")
    card, device, measure = _where(device, gpu, measure)
    shape = (int(channels), *resolution)
    config = TrainConfig(outdir="", data="", device=device, cond=classes > 0, **options)
    card = None if card is None else CARDS[card]
    rows = rows_of(config, shape, gpus, torch.device(device), measure, card, classes)
    place = device if card is None else card.name
    found = sizes(config, shape, gpus, classes)
    click.echo(_describe(config, shape, gpus, place))
    click.echo(_describe_sizes(found))
    heads = ("images per pass", "memory GiB", "sec/kimg", f"days for {config.kimg:g} kimg")
    click.echo("".join(f"{head:>{len(head) + 3}}" for head in heads))
    table = []
    for row in rows:
        table.append(dataclasses.asdict(row))
        click.echo(_line(row, heads))
    click.echo(_remark(measure, card is not None or device != "cpu"))
    if json_path is not None:
        _write(json_path, config, shape, gpus, place, found, table)


def _where(device: str, gpu: str | None, measure: bool | None) -> tuple[str | None, str, bool]:
    """The card to estimate for, if it is one; else the device, and whether to measure on it."""
    import torch

    if gpu is not None:
        if measure or device != "auto":
            raise UserError(
                f"--gpu: got {gpu} and {'--measure' if measure else f'--device {device}'}; --gpu "
                "estimates for a card that need not be here, leave out one of the two"
            )
        return gpu, "cuda", False
    if device == "auto":
        if not torch.cuda.is_available() and not measure:
            return ASSUMED_CARD, "cuda", False
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = resolve_device(device).type
    if kind == "mps":
        raise UserError("--device: got 'mps', expected auto, cpu or cuda:INDEX; name a card: --gpu")
    return None, device, kind == "cuda" if measure is None else measure


def _describe(config, shape: tuple[int, int, int], gpus: int, place: str) -> str:
    channels, height, width = shape
    share = config.batch // gpus
    each = f", {share} on each of {gpus} GPUs" if gpus > 1 else ""
    return f"{config.cfg}, {width}x{height}x{channels}, batch {config.batch}{each}: on {place}"


def _describe_sizes(found: Sizes) -> str:
    mib = 2**20
    return (
        f"counted: {found.g_parameters / 1e6:.1f} M parameters of G, "
        f"{found.d_parameters / 1e6:.1f} M of D; state file {found.state_bytes / mib:.0f} MiB, "
        f"network file {found.snapshot_bytes / mib:.0f} MiB"
    )


def _line(row: PlanRow, heads: tuple[str, ...]) -> str:
    figures = (row.memory_gib, row.seconds_per_kimg, row.days)
    cells = [str(row.images_per_pass), *("-" if x is None else f"{x:.2f}" for x in figures)]
    columns = "".join(f"{c:>{len(h) + 3}}" for c, h in zip(cells, heads, strict=True))
    return f"{columns}   {row.source}" + (f"; {row.note}" if row.note else "")


def _remark(measure: bool, gpu: bool) -> str:
    text = "Not in it: reading images, pictures and files at ticks, metrics."
    if gpu:
        text += " Memory is that of tensors: leave a tenth for work space, and 0.5 GiB."
    else:
        text += " Memory is that of a whole process."
    if not measure and gpu:
        text += " Estimates are from published rates; no GPU has confirmed them yet."
    return text


def _write(path: str, config, shape, gpus: int, place: str, found: Sizes, table: list) -> None:
    from sg3.files import write_text

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
    write_text(path, json.dumps(record, indent=2) + "\n")
