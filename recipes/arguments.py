"""Argument parsers of the commands in this folder and in `benchmarks/`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from sg3.settings import about

TYPES = {"int": int, "float": float, "str": str}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the description, and append defaults to the help of options."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = (action.help or "").removesuffix("."), action.default
        if default is None or default is False or default in ("", argparse.SUPPRESS):
            return text
        if isinstance(default, (list, tuple)):
            return f"{text} (default: {' '.join(map(str, default))})"
        return f"{text} (default: %(default)s)"


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose description is the module docstring `doc`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name, prog = spec.name if spec else "", None
    if name.startswith(("recipes.", "benchmarks.")):
        # `python -m benchmarks NAME`: the package runs one of its modules.
        prog = f"python -m {name}".replace(".__main__", " ".join(["", *sys.argv[1:2]]))
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
            settings["help"] = f"{known.doc.removesuffix('.')} (default: {known.unset})"
    parser.add_argument(*(flags or ("--" + name.replace("_", "-"),)), **settings)


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network and the encoder, by default the bundled ones."""
    parser.add_argument("--network", default="mini-faces", help="name, file or URL of the network")
    parser.add_argument("--clip", default="mini", help="encoder of images and texts")
