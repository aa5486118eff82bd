"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg3.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Bundled adaptations of mini-faces.
DELTAS = Path(__file__).resolve().parent.parent / "assets" / "deltas"


def parse_seeds(text: str) -> list[int]:
    """`"1,2,5-10"` → `[1, 2, 5, 6, 7, 8, 9, 10]`: numbers and inclusive ranges (REFERENCE.md §9.1).

    Seeds are 0 … 2³²−1, what NumPy's generator takes. Raises UserError otherwise.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise UserError(f"seeds: got {text!r}, expected numbers and ranges like 0-7,12")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first or last >= 2**32:
            raise UserError(f"seeds: got {part.strip()!r}, expected a range in 0-4294967295")
        if len(seeds) + last - first >= 1_000_000:
            raise UserError(f"seeds: got {text!r}, expected at most a million of them")
        seeds.extend(range(first, last + 1))
    return seeds


def parse_vec2(text: str) -> tuple[float, float]:
    """`"0.1,-0.2"` → `(0.1, -0.2)`. Raises UserError otherwise."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"got {text!r}, expected two numbers like 0.1,-0.2") from None
    return x, y


def parse_size(text: str) -> tuple[int, int]:
    """`"256x192"` → `(256, 192)`, `"256"` → `(256, 256)`: width and height in pixels."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.lower())
    size = match and (int(match[1]), int(match[2] or match[1]))
    if not size or not all(size):
        raise UserError(f"resolution: got {text!r}, expected width and height like 256x256")
    return size


def parse_grid(text: str) -> tuple[int, int]:
    """`"4x2"` → `(4, 2)`: columns and rows. Raises UserError otherwise."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*[xX]\s*(\d{1,3})\s*", text)
    grid = match and (int(match[1]), int(match[2]))
    if not grid or not all(grid):
        raise UserError(f"got {text!r}, expected columns x rows like 4x2")
    return grid


def parse_delta(text: str) -> tuple[str, float]:
    """`"zombie.safetensors:0.7"` → `("zombie.safetensors", 0.7)`; without a number 1.

    Names of bundled deltas stand for their files. Which files exist decides what a colon means:
    names and drives may have one too. Raises UserError for no such file or a strength that is no
    finite number.
    """
    whole = _delta_file(text)
    if whole is not None:
        return whole, 1.0
    path, _, number = text.rpartition(":")
    file = _delta_file(path)
    if file is None:
        known = ", ".join(bundled_deltas())
        raise UserError(f"{text}: no such file; bundled with mini-faces are {known}")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise UserError(f"strength of {path}: got {number!r}, expected a number like 0.7")
    return file, strength


def bundled_deltas() -> list[str]:
    """Names of the adaptations of mini-faces that come with the package."""
    return sorted(path.stem for path in DELTAS.glob("*.safetensors"))


def _delta_file(text: str) -> str | None:
    if Path(text).is_file():
        return text
    bundled = DELTAS / f"{text}.safetensors"
    return str(bundled) if text in bundled_deltas() else None


def resolve_device(name: str = "auto") -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` → a device that exists here.

    `auto` takes the first of cuda, mps, cpu. Raises UserError for one that is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"device: got {name!r}, expected auto, cpu, cuda, cuda:INDEX or mps")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f"device: got {name!r}, but this machine has {count} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device: got 'mps', but this machine has none")
    return device


class ParsedType(click.ParamType):
    """A click type around a parser that raises ValueError."""

    def __init__(self, name: str, parser):
        self.name, self.parser = name, parser

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        try:
            return self.parser(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DocumentedOption(click.Option):
    """An option whose help shows its default, or what happens where it is left out (`unset`),
    and the allowed values that the configuration behind it enforces."""

    def __init__(self, *args, unset: str | None = None, expected: str = "", **kwargs):
        kwargs.setdefault("show_default", True)
        super().__init__(*args, **kwargs)
        self.unset, self.expected = unset, expected

    def get_help_extra(self, ctx: click.Context):
        extra = super().get_help_extra(ctx)
        if self.unset is not None:
            extra["default"] = self.unset
        if self.expected:
            extra["range"] = self.expected
        return extra


def option(*declarations: str, **kwargs):
    """`click.option` that shows its default; `unset="..."` says what leaving it out does."""
    return click.option(*declarations, cls=DocumentedOption, **kwargs)


def config_option(config: type, name: str, *declarations: str, param: str | None = None, **kwargs):
    """The option for field `name` of a configuration dataclass (`sg3.settings`).

    Default, help text and choices are those of the field. Ranges are shown here and enforced by
    the configuration. `declarations` default to `--name-with-dashes`, `param`, the name of the
    command's parameter, to `name`; `kwargs` override.
    """
    from sg3.settings import about

    field = next(field for field in dataclasses.fields(config) if field.name == name)
    known = about(field)
    kind = str(field.type).partition(" |")[0]
    settings: dict[str, Any] = {"help": known.doc, "unset": known.unset}
    if known.choices is not None:
        settings["type"] = click.Choice([str(choice) for choice in known.choices])
    elif kind in PLAIN_TYPES:
        settings |= {"type": PLAIN_TYPES[kind], "expected": known.expected}
    if field.default is not dataclasses.MISSING:
        settings["default"] = field.default
    settings |= kwargs
    return option(*(declarations or ("--" + name.replace("_", "-"),)), param or name, **settings)


PLAIN_TYPES = {"int": int, "float": float, "str": str, "bool": bool}
SEEDS = ParsedType("seeds", parse_seeds)
SIZE = ParsedType("WxH", parse_size)
GRID = ParsedType("WxH", parse_grid)
VEC2 = ParsedType("x,y", parse_vec2)
DELTA = ParsedType("file[:strength]", parse_delta)


def _remember_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["sg3.debug"] = True


network_option = click.option(
    "--network",
    default="mini-faces",
    show_default=True,
    metavar="NAME|FILE|URL",
    help="A name from `sg3 models`, a .safetensors or official .pkl file, or an https URL.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:INDEX or mps."
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Start of all randomness.",
)
seeds_option = click.option(
    "--seeds", type=SEEDS, required=True, help="Seeds: numbers and ranges like 0-7,12."
)
delta_option = click.option(
    "--delta",
    "deltas",
    type=DELTA,
    multiple=True,
    metavar="FILE|NAME[:STRENGTH]",
    help="Change the network by a delta: of `sg3 adapt`, or bundled, like zombie:0.7; several add "
    "up.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of a StyleGAN3's convolutions; bf16 is a preview, about 1 % off.",
)
outdir_option = click.option(
    "--outdir",
    type=click.Path(file_okay=False),
    required=True,
    metavar="DIR",
    help="Where to write; made if missing.",
)
debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show a traceback on errors.",
)


def with_deltas(
    G: nn.Module, deltas: Sequence[tuple[str, float]], force: bool = False
) -> nn.Module:
    """`G` itself where there are none, else a copy changed by these (file, strength)."""
    from sg3.checkpoints.delta import apply_deltas, load_delta

    if not deltas:
        return G
    return apply_deltas(G, [(load_delta(path), strength) for path, strength in deltas], force)


def apply_precision(G, precision: str) -> None:
    """Set it, and say so where it makes things slower."""
    from sg3.networks.precision import has_bf16_instructions, set_conv_precision

    set_conv_precision(G, precision)
    device = next(G.parameters()).device
    if precision == "bf16" and not has_bf16_instructions(device):
        click.echo("Note: this processor has no bf16 instructions; fp32 is quicker.", err=True)
