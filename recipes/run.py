"""Shared parts of the recipes: common settings, `--set`, and the command line that trains."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sg3.allocator import keep_large_blocks
from sg3.cli.main import errors_in_one_line
from sg3.cli.options import debug_option, option, outdir_option
from sg3.cli.train import run_training
from sg3.cli.train import train as train_command
from sg3.training import TrainConfig
from sg3.training.loss import GANLoss

#: (data, outdir, **changes) → the settings of a run.
Builder = Callable[..., TrainConfig]
#: Options of `sg3 train` by setting, except those that the recipe's command has itself.
OPTIONS = {
    param.name: param for param in train_command.params if param.name not in ("data", "outdir")
}


def reference_config(
    data: str, outdir: str, cfg: str, gammas: Mapping[str, float], **settings: Any
) -> TrainConfig:
    """Return the settings common to the reference runs: batch 32, mirrored copies, gamma by `cfg`.

    Args:
        data: zip or folder of training images.
        outdir: folder of the runs.
        cfg: a configuration of `sg3 train`.
        gammas: R1 weight by configuration.
        settings: further settings.
    """
    return TrainConfig(
        outdir=outdir, data=data, cfg=cfg, batch=32, gamma=gammas.get(cfg), mirror=True, **settings
    )


def parse_changes(texts: Iterable[str]) -> dict[str, object]:
    """`["gamma=16", "mirror=no"]` → `{"gamma": 16.0, "mirror": False}`.

    Values are parsed by the options of `sg3 train`; an empty value unsets an option.
    Raises ValueError for an unknown name, click.BadParameter for an invalid value.
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
            near = difflib.get_close_matches(name, names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`sg3 train --help` lists them"
            raise ValueError(f"--set: got {name!r}, expected an option of sg3 train; {hint}")
        if value == "" and defaults[name] is not None:
            raise ValueError(f"--set: {name} needs a value, such as {name}={defaults[name]}")
        known = OPTIONS[name]
        changes[name] = known.type.convert(value, known, None) if value else None
    return changes


def continued(config: TrainConfig) -> TrainConfig:
    """Return `config` resuming the newest run in `outdir`, or starting one if there is none."""
    network = config.start_network
    return dataclasses.replace(config, resume=f"latest,{network}" if network else "latest")


class RecipeCommand(click.Command):
    """A click command that reports user errors in one line with exit code 2."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the arguments."""
        with errors_in_one_line(parent):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; library errors name its options."""
        ctx.meta["sg3.command"] = self
        with errors_in_one_line(ctx):
            return super().invoke(ctx)


def verbatim(doc: str | None) -> str:
    """Return a module docstring as the help of a click command that keeps its line breaks."""
    return "\b\n" + (doc or "").replace("\n\n", "\n\n\b\n")


def run(config: TrainConfig, dry_run: bool = False, loss: type[GANLoss] = GANLoss) -> None:
    """Train as `sg3 train` does.

    Args:
        config: settings of the run.
        dry_run: print the settings as JSON instead, and the networks' arguments if the data exist.
        loss: class of the loss.
    """
    if dry_run and not Path(config.data).exists():
        click.echo(json.dumps(dataclasses.asdict(config), indent=2))
        return
    run_training(config, dry_run=dry_run, loss=loss)


def recipe_command(
    doc: str | None,
    variants: Mapping[str, Builder],
    losses: Mapping[str, type[GANLoss]] | None = None,
) -> click.Command:
    """Return the command of a recipe.

    Args:
        doc: docstring of its module, used as help.
        variants: settings by variant; the first one is the default.
        losses: classes of the losses of variants that do not use `GANLoss`.
    """

    @click.command(cls=RecipeCommand, help=verbatim(doc))
    @click.option("--data", required=True, metavar="ZIP|DIR", help="Training images.")
    @outdir_option
    @option(
        "--variant",
        type=click.Choice(list(variants)),
        default=next(iter(variants)),
        help="Which of the recipe's runs.",
    )
    @click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="NAME=VALUE",
        help="Change a setting of sg3 train, such as gamma=16; may be repeated.",
    )
    @option(
        "--resume",
        metavar="latest|NAME|FILE|URL",
        unset="start as the recipe says",
        help="'latest' resumes the newest run in --outdir, or starts one; a network starts a new "
        "run from its weights.",
    )
    @click.option("-n", "--dry-run", is_flag=True, help="Print the settings and exit.")
    @debug_option
    def command(
        data: str,
        outdir: str,
        variant: str,
        changes: Sequence[str],
        resume: str | None,
        dry_run: bool,
    ) -> None:
        settings = parse_changes(changes)
        if resume not in (None, "latest"):
            settings["resume"] = resume
        config = variants[variant](data, outdir, **settings)
        loss = (losses or {}).get(variant, GANLoss)
        run(continued(config) if resume == "latest" else config, dry_run, loss)

    return command


def main(
    name: str,
    doc: str | None,
    variants: Mapping[str, Builder],
    losses: Mapping[str, type[GANLoss]] | None = None,
) -> None:
    """Run `recipe_command` as the program `python -m NAME`."""
    keep_large_blocks()
    recipe_command(doc, variants, losses)(prog_name=f"python -m {name}")
