"""What the recipes share: changes of their settings, and a command line that trains them."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click

from sg3.cli.main import errors_in_one_line
from sg3.cli.options import debug_option, outdir_option
from sg3.cli.train import run_training
from sg3.cli.train import train as train_command
from sg3.training import TrainConfig
from sg3.training.loss import GANLoss

#: (data, outdir, **changes) → the complete settings of a run.
Builder = Callable[..., TrainConfig]
#: Options of `sg3 train` by the name of their setting; the recipe's command has its own for these.
OPTIONS = {
    option.name: option for option in train_command.params if option.name not in ("data", "outdir")
}


def with_changes(config: TrainConfig, changes: Mapping[str, object]) -> TrainConfig:
    """A copy of `config` with `changes` by name. Raises ValueError for an unknown name."""
    names = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in names:
            raise unknown_setting(name, names)
    return dataclasses.replace(config, **changes)


def unknown_setting(name: str, names: Iterable[str]) -> ValueError:
    """The error for a setting that does not exist, with the nearest names that do."""
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `sg3 train --help` lists them"
    return ValueError(f"setting: got {name!r}, expected an option of sg3 train{hint}")


def parse_changes(texts: Iterable[str]) -> dict[str, object]:
    """`["gamma=16", "mirror=no"]` → `{"gamma": 16.0, "mirror": False}`.

    Values are written as `sg3 train` takes them; nothing after the sign leaves an option out.
    Raises ValueError for unknown names, and click.BadParameter for values that do not fit.
    """
    changes: dict[str, object] = {}
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    names = OPTIONS.keys() & defaults.keys()
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign:
            raise ValueError(f"--set: got {text!r}, expected NAME=VALUE like gamma=16")
        if name not in names:
            raise unknown_setting(name, names)
        if value == "" and defaults[name] is not None:
            raise ValueError(f"--set: {name} needs a value, such as {name}={defaults[name]}")
        option = OPTIONS[name]
        changes[name] = option.type.convert(value, option, None) if value else None
    return changes


def continued(config: TrainConfig) -> TrainConfig:
    """`config`, going on with its newest run in `outdir`, else starting as it says."""
    network = config.start_network
    return dataclasses.replace(config, resume=f"latest,{network}" if network else "latest")


class RecipeCommand(click.Command):
    """A click command whose errors are one line and exit code 2."""

    def make_context(self, info_name, args, parent=None, **extra) -> click.Context:
        with errors_in_one_line(parent):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context):
        with errors_in_one_line(ctx):
            return super().invoke(ctx)


def run(config: TrainConfig, dry_run: bool = False, loss: type[GANLoss] = GANLoss) -> None:
    """What `sg3 train` does with `config`, interruptions included, by `loss`.

    With `dry_run` only print, as JSON, what would be done: the networks too if the data exist.
    """
    if dry_run and not Path(config.data).exists():
        click.echo(json.dumps(dataclasses.asdict(config), indent=2))
        return
    run_training(config, dry_run=dry_run, loss=loss)


def recipe_command(
    doc: str, variants: Mapping[str, Builder], losses: Mapping[str, type[GANLoss]] | None = None
) -> click.Command:
    """The command of a recipe whose module docstring is `doc`; the first variant is its default.

    `losses` are those of the variants that have one of their own.
    """

    @click.command(cls=RecipeCommand, help="\b\n" + doc.replace("\n\n", "\n\n\b\n"))
    @click.option("--data", required=True, metavar="ZIP|DIR", help="Training images.")
    @outdir_option
    @click.option(
        "--variant",
        type=click.Choice(list(variants)),
        default=next(iter(variants)),
        show_default=True,
    )
    @click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="NAME=VALUE",
        help="Another value for an option of sg3 train, such as gamma=16; repeatable.",
    )
    @click.option(
        "--resume",
        metavar="latest|NAME|FILE|URL",
        help="'latest' goes on with this recipe's newest run in --outdir, or starts one; "
        "a network starts a new run from its weights.",
    )
    @click.option("-n", "--dry-run", is_flag=True, help="Print the settings and stop.")
    @debug_option
    def command(data, outdir, variant, changes, resume, dry_run) -> None:
        settings = parse_changes(changes)
        if resume not in (None, "latest"):
            settings["resume"] = resume
        config = variants[variant](data, outdir, **settings)
        loss = (losses or {}).get(variant, GANLoss)
        run(continued(config) if resume == "latest" else config, dry_run, loss)

    return command


def main(name: str, doc: str, variants: Mapping[str, Builder], losses=None) -> None:
    """The program `python -m NAME`; `losses` as in `recipe_command`."""
    recipe_command(doc, variants, losses)(prog_name=f"python -m {name}")
