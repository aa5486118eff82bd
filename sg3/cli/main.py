"""The `sg3` command group. Commands are imported when they are called."""

from __future__ import annotations

import difflib
import importlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from sg3._version import __version__
from sg3.allocator import keep_large_blocks
from sg3.cli.options import option_name
from sg3.errors import NetworkNote
from sg3.installation import PACKAGES, check_packages
from sg3.system import use_fallbacks
from sg3.threads import use_passive_waiting

#: name → (module and attribute of the click command, one line of help). They are strings because
#: `sg3` does not import the packages above it, and so that `sg3 --help` is fast.
COMMANDS = {
    "generate": ("sg3.cli.generate:generate", "Generate images from seeds."),
    "video": (
        "sg3.cli.video:video",
        "Make videos: interpolations, loops, moving inputs, texture sticking.",
    ),
    "steer": ("guidance.commands.steer:steer", "Steer an image by text prompts."),
    "edit": ("guidance.commands.edit:edit", "Edit latents along text and other directions."),
    "project": (
        "guidance.commands.project:project",
        "Find the latent of a photo; tune the network to it.",
    ),
    "adapt": ("nada.commands.adapt:adapt", "Adapt a network to another domain by text or images."),
    "train": ("sg3.cli.train:train", "Train a network on a folder or zip of images."),
    "ema": ("sg3.cli.ema:ema", "Make a network with another EMA length after training."),
    "plan": ("sg3.cli.plan:plan", "Estimate memory, time and files of a training run."),
    "dataset": ("sg3.cli.dataset:dataset", "Prepare a dataset from images."),
    "metrics": ("sg3.cli.metrics:metrics", "Compute FID, KID, precision and recall, equivariance."),
    "spectra": ("sg3.cli.spectra:spectra", "Compare power spectra of datasets and networks."),
    "inspect": ("sg3.cli.inspect:inspect", "Show layers as images and power spectra."),
    "delta": ("sg3.cli.delta:delta", "Make and use deltas: small files with weight changes."),
    "blend": ("sg3.cli.blend:blend", "Combine layers of two networks."),
    "convert": (
        "sg3.cli.convert:convert",
        "Convert networks between our layout and those of other tools.",
    ),
    "export": ("sg3.cli.export:export", "Write a network as ONNX or pt2, to run without sg3."),
    "push": ("sg3.cli.push:push", "Publish a network on the Hugging Face hub."),
    "models": ("sg3.cli.models:models", "List and download known networks."),
    "doctor": ("sg3.cli.doctor:doctor", "Print versions, devices and the operators in use."),
    "app": ("app_tabs.command:app_command", "Open the demo page in a browser."),
}


class OneLineError(click.ClickException):
    """Printed as `Error: …`, exit code 2."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """Return the message of an exception without line breaks, for OSErrors as "file: reason"."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def errors_in_one_line(ctx: click.Context | None) -> Iterator[None]:
    """Turn errors that a user can fix into one line; with `--debug` let the traceback through."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:  # shows the help page
        raise
    except click.UsageError as error:
        where = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        raise OneLineError(one_line_usage(error) + where) from None
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) or (ctx is not None and ctx.meta.get("sg3.debug")):
            raise
        command = None if ctx is None else ctx.meta.get("sg3.command")
        raise OneLineError(with_option_names(one_line(error), command)) from None
    except RuntimeError as error:
        out_of_memory = type(error).__name__ == "OutOfMemoryError"
        if not out_of_memory or (ctx is not None and ctx.meta.get("sg3.debug")):
            raise
        raise OneLineError("out of GPU memory; try a smaller batch or --device cpu") from None


def with_option_names(message: str, command: click.Command | None) -> str:
    """Return a library message with the options of `command` instead of Python's argument names.

    Argument names are at the start (`batch: got 0, …`) or in backticks; `batch` becomes --batch.
    Options go by the name of their parameter, or else of the configuration field that they set.
    """
    names: dict[str, str] = {}
    fields: dict[str, str] = {}
    commands = [command] if command else []
    for current in commands:  # grows during iteration: subcommands of a group are appended
        commands += getattr(current, "commands", {}).values()
        for param in current.params:
            if isinstance(param, click.Option):
                shown = option_name(param)
                names.setdefault(param.name or "", shown)
                fields.setdefault(getattr(param, "field", None) or "", shown)
    # Commands without this option read what `sg3 convert` wrote.
    names = {"as_": "sg3 convert --as"} | fields | names
    start = re.match(r"(\w+(?:, \w+)*): ", message)
    if start and all(name in names for name in start[1].split(", ")):
        options = ", ".join(names[name] for name in start[1].split(", "))
        message = f"{options}: {message[start.end() :]}"
    return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), message)


def one_line_usage(error: click.UsageError) -> str:
    """Return click's message on one line."""
    return " ".join(error.format_message().split())


def _show_warning(usual: Callable[..., None], message: Any, category: Any, *place: Any) -> None:
    """Print notes about network files as one line, and other warnings as `usual` does."""
    if issubclass(category, NetworkNote):
        click.echo(f"Note: {message}", err=True)
    else:
        usual(message, category, *place)


class LazyGroup(click.Group):
    """A click group that imports commands when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise OneLineError(
                f"sg3 {name} needs the Python module {error.name!r}, which is not installed"
            ) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}" if near else f"one of {', '.join(COMMANDS)}"
            raise OneLineError(f"no command {args[0]!r}; {hint}?")
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta["sg3.command"] = command
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with errors_in_one_line(parent):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with errors_in_one_line(ctx):
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sg3")
@click.option("--debug", is_flag=True, help="Show the traceback of errors.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """StyleGAN3: generate images, steer them by text, train networks.

    \b
    Example:
      sg3 generate --network mini-faces --seeds 0-7 --outdir out
    """
    if debug:
        ctx.meta["sg3.debug"] = True
    ctx.with_resource(warnings.catch_warnings())
    warnings.simplefilter("always", NetworkNote)
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    keep_large_blocks()  # a program may tune its own allocator; a library may not


def main() -> None:
    """Run the `sg3` program."""
    try:
        check_packages(*PACKAGES)
    except ImportError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    use_passive_waiting()
    use_fallbacks()
    for stream in (sys.stdout, sys.stderr):  # names of files may not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="sg3")
