"""Options that several commands share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sg3.cli.parsers import (
    parse_class,
    parse_delta,
    parse_delta_file,
    parse_grid,
    parse_seeds,
    parse_size,
    parse_vec2,
)
from sg3.settings import Setting, about, type_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sg3.checkpoints import Networks
    from sg3.networks.generator import MappedGenerator

F = TypeVar("F", bound=Callable[..., Any])


def resolve_device(name: str = "auto") -> torch.device:
    """`sg3.devices.resolve_device`, which imports torch."""
    from sg3.devices import resolve_device

    return resolve_device(name)


def option_name(param: click.Option) -> str:
    """Return the name of an option for messages: its first one with two dashes."""
    return next((name for name in param.opts if name.startswith("--")), param.opts[0])


class ParsedType(click.ParamType):
    """A click type around a parser that raises ValueError."""

    def __init__(self, name: str, parser: Callable[[str], Any]):
        self.name, self.parser = name, parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parser(value)
        except ValueError as error:
            message = str(error)
            if not isinstance(param, click.Option):
                self.fail(message, param, ctx)
            name = option_name(param)
            # Python's name of the argument would repeat the option's.
            known = {param.name, *(each.lstrip("-").replace("-", "_") for each in param.opts)}
            start, colon, rest = message.partition(": ")
            text = rest if colon and start in known else message
            raise click.UsageError(f"{name}: {text}", ctx) from None


class FiniteFloat(click.types.FloatParamType):
    """Floating point numbers without infinity and NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"got {value}, expected a finite number", param, ctx)
        return number


class DocumentedOption(click.Option):
    """An option whose help always shows its default, or what leaving it out does.

    Args:
        unset: what happens if the option is left out and has no default.
        expected: allowed values, shown in the help and enforced by the configuration.
        field: name of the configuration field that the option sets, for error messages.
    """

    def __init__(
        self,
        *args: Any,
        unset: str | None = None,
        expected: str = "",
        field: str | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("show_default", True)
        super().__init__(*args, **kwargs)
        self.unset, self.expected, self.field = unset, expected, field

    def make_metavar(self, ctx: click.Context) -> str:
        # click calls a number "INTEGER RANGE" where the type checks its range.
        if self.metavar is None and isinstance(self.type, (click.IntRange, click.FloatRange)):
            return "INTEGER" if isinstance(self.type, click.IntRange) else "FLOAT"
        return super().make_metavar(ctx)

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if self.unset is not None and extra.get("default", '""') == '""':
            extra["default"] = self.unset
        if isinstance(self.type, click.types.BoolParamType) and "default" in extra:
            words = {"True": "on", "False": "off"}
            extra["default"] = words.get(extra["default"], extra["default"])
        if self.expected:
            extra["range"] = self.expected
        elif isinstance(self.type, (click.IntRange, click.FloatRange)):
            extra["range"] = _range_in_words(self.type)
        return extra


def _range_in_words(kind: click.IntRange | click.FloatRange) -> str:
    """Return the range of a click type as configurations word theirs: "at least 1"."""
    return Setting(
        min=None if kind.min_open else kind.min,
        max=None if kind.max_open else kind.max,
        above=kind.min if kind.min_open else None,
        below=kind.max if kind.max_open else None,
    ).expected


def option(*declarations: str, **kwargs: Any) -> Callable[[F], F]:
    """Like `click.option`, but shows the default; `unset="…"` says what leaving it out does."""
    return click.option(*declarations, cls=DocumentedOption, **kwargs)


def config_option(
    config: type, name: str, *declarations: str, param: str | None = None, **kwargs: Any
) -> Callable[[F], F]:
    """Return the option for field `name` of a configuration dataclass (`sg3.settings`).

    Default, help text and choices are those of the field. Ranges are shown here and enforced by
    the configuration.

    Args:
        config: the dataclass.
        name: the field.
        declarations: as for `click.option`; default: `--name-with-dashes`, for a bool also
            `--no-name-with-dashes`.
        param: name of the command's parameter; default: `name`.
        kwargs: arguments of `option` that replace those derived from the field.
    """
    field = {field.name: field for field in dataclasses.fields(config)}[name]
    known, kind = about(field), type_name(field)
    settings: dict[str, Any] = {"help": known.doc, "unset": known.unset, "field": name}
    if known.choices is not None:
        settings["type"] = click.Choice(known.choices)
    elif kind == "ClassLabel":
        settings |= {"type": CLASS, "metavar": CLASS_METAVAR}
    elif kind in PLAIN_TYPES:
        settings |= {"type": PLAIN_TYPES[kind], "expected": known.expected}
    # With the field's default, click would not require a required option.
    if field.default is not dataclasses.MISSING and not kwargs.get("required"):
        settings["default"] = field.default
    dashed = name.replace("_", "-")
    usual = f"--{dashed}/--no-{dashed}" if kind == "bool" else f"--{dashed}"
    return option(*(declarations or (usual,)), param or name, **(settings | kwargs))


CLASS_METAVAR = "INDEX|X,Y"
PLAIN_TYPES = {"int": int, "float": float, "str": str, "bool": bool}
FINITE = FiniteFloat()
SEED = click.IntRange(0, 2**32 - 1)
CLASS = ParsedType("class", parse_class)
SEEDS = ParsedType("seeds", parse_seeds)
SIZE = ParsedType("WxH", parse_size)
GRID = ParsedType("WxH", parse_grid)
VEC2 = ParsedType("x,y", parse_vec2)
DELTA_FILE = ParsedType("file|name", parse_delta_file)
DELTA = ParsedType("file[:strength]", parse_delta)
NETWORK_HELP = (
    "A name from `sg3 models`, a .safetensors or official .pkl file, a .pt file of another tool, "
    "an https URL, or hf://OWNER/NAME[/FILE][@REVISION] on the Hugging Face hub."
)


def _remember_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["sg3.debug"] = True


def _remember_stated(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta["sg3.as"] = value


as_option = option(
    "--as",
    "as_",
    metavar="KIND,NAME=VALUE,…",
    expose_value=False,
    callback=_remember_stated,
    unset="infer everything",
    help="What a file without constructor arguments does not tell, like "
    "stylegan3-t,resolution=256,conv_clamp=none.",
)


def stated_arguments() -> str | None:
    """Return the value of `--as` of the running command, for the argument `as_` of `sg3.load`."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get("sg3.as")


only_network_option = option(
    "--network", default="mini-faces", metavar="NAME|FILE|URL", help=NETWORK_HELP
)


def network_option(command: F) -> F:
    """Add the options `--network` and `--as`."""
    return only_network_option(as_option(command))


device_option = option(
    "--device",
    default="auto",
    metavar="DEVICE",
    help="auto, cpu, cuda, cuda:INDEX, mps, xpu; auto is the accelerator, or cpu if there is none.",
)
seed_option = option("--seed", type=SEED, default=0, help="Random seed.")
seeds_option = option(
    "--seeds", type=SEEDS, required=True, help="Seeds: numbers and ranges like 0-7,12."
)
trunc_option = option(
    "--trunc", type=FINITE, default=1, help="Truncation psi.", field="truncation_psi"
)
translate_option = option(
    "--translate",
    type=VEC2,
    default="0,0",
    metavar="X,Y",
    help="Move the image right and down, in units of its larger side (StyleGAN3).",
)
rotate_option = option(
    "--rotate",
    type=FINITE,
    default=0,
    metavar="DEG",
    help="Rotate the image counter-clockwise, in degrees (StyleGAN3).",
    field="rotate_deg",
)
class_option = option(
    "--class",
    "class_index",
    type=CLASS,
    metavar=CLASS_METAVAR,
    help="Class, or all numbers of a label like 5.0,90.",
    unset="none; required by conditional networks",
)
latent_option = option(
    "--latent",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Saved latents (safetensors, tensor 'ws') instead of seeds.",
    unset="use seeds",
)
force_latent_option = option(
    "--force",
    is_flag=True,
    help="Accept a latent made with another network of the same shapes.",
)
delta_option = option(
    "--delta",
    "deltas",
    type=DELTA,
    multiple=True,
    metavar="FILE|NAME[:STRENGTH]",
    help="Delta to add to the network: a file written by `sg3 adapt`, or a bundled one like "
    "zombie:0.7. Repeat to add several.",
)
precision_option = option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    help="Precision of a StyleGAN3's convolutions; bf16 is a preview, about 1 % off.",
)
outdir_option = option(
    "--outdir",
    type=click.Path(file_okay=False),
    required=True,
    metavar="DIR",
    help="Output folder; created if missing.",
)
debug_option = option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of errors.",
)


def fps_option(default: float) -> Callable[[F], F]:
    """Return the option `--fps`."""
    positive = click.FloatRange(0, min_open=True)
    return option("--fps", type=positive, default=default, help="Frames per second.")


def load_generator(
    network: str,
    device: str,
    deltas: Sequence[tuple[str, float]] = (),
    precision: str = "fp32",
    force: bool = False,
) -> tuple[Networks, MappedGenerator]:
    """Load G_ema of `network`; return both, the generator changed by deltas (file, strength).

    `force` accepts deltas that were made from other weights of the same shapes.
    """
    import sg3

    nets = sg3.load(network, resolve_device(device), stated_arguments(), only_ema=True)
    G = with_deltas(nets.G_ema, deltas, force)
    apply_precision(G, precision)
    return nets, G


def with_deltas(G: Any, deltas: Sequence[tuple[str, float]], force: bool = False) -> Any:
    """Return a copy of `G` with deltas (file, strength) added, or `G` itself if there are none."""
    from sg3.checkpoints.delta import apply_deltas, load_delta

    if not deltas:
        return G
    return apply_deltas(G, [(load_delta(path), strength) for path, strength in deltas], force)


def apply_precision(G: nn.Module, precision: str) -> None:
    """Set the precision of the convolutions, with a note where that makes them slower."""
    from sg3.networks.precision import has_bf16_instructions, set_conv_precision

    set_conv_precision(G, precision)
    device = next(G.parameters()).device
    if precision == "bf16" and not has_bf16_instructions(device):
        click.echo("Note: this processor has no bf16 instructions; fp32 is faster.", err=True)
