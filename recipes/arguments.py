"""Argument parsers of the commands in this folder and in `benchmarks/`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from sg3.settings import about

TYPES = {"int": int, "float": float, "str": str}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the description, and append the default to each option's help."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        silent = action.default in (None, False, "", argparse.SUPPRESS) or action.required
        if not text or silent or "%(default)" in text:
            return text
        if isinstance(action.default, (list, tuple)):
            return f"{text} (default: {' '.join(map(str, action.default))})"
        return f"{text} (default: %(default)s)"


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose description is the module docstring `doc`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else None
    prog = f"python -m {name}" if name and not name.startswith("pytest") else None
    return argparse.ArgumentParser(prog=prog, description=doc, formatter_class=HelpFormatter)


def add_setting(parser: argparse.ArgumentParser, config: type, name: str, *flags: str) -> None:
    """Add the option for field `name` of a configuration (`sg3.settings`).

    Type, default, choices and help are those of the field; `flags` default to
    `--name-with-dashes`. The configuration enforces the range.
    """
    field = next(field for field in dataclasses.fields(config) if field.name == name)
    known, kind = about(field), str(field.type).partition(" |")[0]
    settings: dict[str, Any] = {"help": known.doc.replace("%", "%%"), "dest": name}
    if kind == "bool":
        settings["action"] = "store_true"
    else:
        default = None if field.default is dataclasses.MISSING else field.default
        settings |= {"type": TYPES[kind], "default": default, "choices": known.choices}
        if known.unset:
            settings["help"] += f" (default: {known.unset})"
    parser.add_argument(*(flags or ("--" + name.replace("_", "-"),)), **settings)


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network and the encoder, by default the bundled ones."""
    parser.add_argument("--network", default="mini-faces", help="name, file or URL of the network")
    parser.add_argument("--clip", default="mini", help="encoder of images and texts")
