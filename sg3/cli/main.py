"""The command group: a table of strings, so that nothing is imported before it is asked for."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

import click

from sg3 import __version__
from sg3.allocator import keep_large_blocks
from sg3.installation import PACKAGES, check_packages
from sg3.threads import use_passive_waiting

#: name → (where the click command lives, one line of help). Packages above `sg3` are named,
#: never imported from here before the user asks for their command.
COMMANDS = {
    "generate": ("sg3.cli.generate:generate", "Images from seeds."),
    "video": ("sg3.cli.video:video", "Interpolations, loops, moving inputs, texture sticking."),
    "steer": (
        "guidance.commands.steer:steer",
        "A text prompt pulls an image towards what it says.",
    ),
    "edit": ("guidance.commands.edit:edit", "Move a latent along texts and other directions."),
    "project": ("guidance.commands.project:project", "Find the latent of a photo; tune to it."),
    "adapt": ("nada.commands.adapt:adapt", "A text pulls a network into another domain."),
    "train": ("sg3.cli.train:train", "Train a network on a folder or zip of images."),
    "plan": ("sg3.cli.plan:plan", "Memory, time and files of a training run before it starts."),
    "dataset": ("sg3.cli.dataset:dataset", "Prepare a data set from images."),
    "metrics": ("sg3.cli.metrics:metrics", "FID, KID, precision and recall, equivariance."),
    "spectra": ("sg3.cli.spectra:spectra", "Average power spectra of data and of networks."),
    "inspect": ("sg3.cli.inspect:inspect", "Layers of a network as pictures and spectra."),
    "delta": ("sg3.cli.delta:delta", "Small files of what an adapted network changed."),
    "blend": ("sg3.cli.blend:blend", "One network from the layers of two."),
    "convert": ("sg3.cli.convert:convert", "Official pickle to safetensors, without running it."),
    "models": ("sg3.cli.models:models", "List and download known networks."),
    "doctor": ("sg3.cli.doctor:doctor", "What this machine has, and which operators are in use."),
    "app": ("app:app_command", "The demo page in a browser."),
}


#: click 8.2 and later raise this to show the help page.
NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


class OneLineError(click.ClickException):
    """Printed as `Error: …`, exit code 2."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The message of an exception without line breaks; files are named before the reason."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def errors_in_one_line(ctx: click.Context | None) -> Iterator[None]:
    """Turn what a user can mend into one line; with `--debug` let the traceback through."""
    try:
        yield
    except NO_ARGUMENTS:
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
    """A library message with the options of `command` in place of Python's argument names.

    Arguments stand at the start, `batch: got 0, …`, or in backticks: `batch` becomes --batch.
    """
    names: dict[str, str] = {}
    commands = [command] if command else []
    for current in commands:  # grows while it is read: commands below a group follow it
        commands += getattr(current, "commands", {}).values()
        for param in current.params:
            if isinstance(param, click.Option) and param.name:
                names.setdefault(param.name, max(param.opts, key=len))
    start = re.match(r"(\w+(?:, \w+)*): ", message)
    if start and all(name in names for name in start[1].split(", ")):
        options = ", ".join(names[name] for name in start[1].split(", "))
        message = f"{options}: {message[start.end() :]}"
    return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), message)


def one_line_usage(error: click.UsageError) -> str:
    """click's own message, on one line."""
    return " ".join(error.format_message().split())


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are called."""

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

    def resolve_command(self, ctx: click.Context, args: list[str]):
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

    def make_context(self, info_name, args, parent=None, **extra) -> click.Context:
        with errors_in_one_line(parent):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context):
        with errors_in_one_line(ctx):
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sg3")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """StyleGAN3: generate, steer by text, train.

    \b
    Example:
      sg3 generate --network mini-faces --seeds 0-7 --outdir out
    """
    if debug:
        ctx.meta["sg3.debug"] = True
    keep_large_blocks()


def main() -> None:
    """Entry point of the `sg3` program."""
    try:
        check_packages(*PACKAGES)
    except ImportError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    use_passive_waiting()
    cli(prog_name="sg3")
