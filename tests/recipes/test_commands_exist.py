"""Commands of recipes and benchmarks that are named anywhere exist, with the options named."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import io
import re
import runpy
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

# Programs import each other; their second import, as `__main__`, is discarded.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")

ROOT = Path(__file__).parents[2]
PACKAGES = ("ops_cuda", "sg3", "guidance", "nada", "recipes", "app_tabs", "benchmarks")
#: Their entries name modules as they were.
HISTORY = ("docs/LOG.md", "CHANGELOG.md")
MODULE = r"(?:recipes|benchmarks)(?:\.[a-z]\w*)*"
#: `-m MODULE` and the rest of its command.
COMMAND = re.compile(rf"-m ({MODULE})(?![\w.])([^\n`;|#&>\")]*)")
FILE = re.compile(r"\b(?:recipes|benchmarks)/[\w/]+\.py\b")
NAME = re.compile(r"\b(?:recipes|benchmarks)(?:\.[a-z]\w*)+\b(?!\()")


def texts(path: Path) -> Iterator[str]:
    """Yield the prose of a file: all of a page, strings and comments of Python."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield source
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@functools.cache
def prose() -> dict[str, list[str]]:
    """The texts of all files by path, with continued lines joined."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ROOT / "app.py"]
    files += [*ROOT.glob("docs/**/*.md")]
    for package in PACKAGES:
        files += [*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.md")]
    return {
        name: [re.sub(r"\\\n\s*", " ", text) for text in texts(path)]
        for path in sorted(files)
        if (name := path.relative_to(ROOT).as_posix()) not in HISTORY
    }


def programs() -> list[str]:
    """All modules of recipes and benchmarks that can be run."""
    found = []
    for package in ("recipes", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(parts).removesuffix(".__main__"))
    return found


class Found(BaseException):
    """Carries the parser of a program out of it, before it parses anything."""


@functools.cache
def parser_of(module: str) -> argparse.ArgumentParser | click.Command:
    """The parser of the program `module`, which is not run further."""

    def found(self, *args, **kwargs):
        raise Found(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", found)
        patch.setattr(click.Command, "main", found)
        patch.setattr(sys, "argv", [module])
        try:
            runpy.run_module(module, run_name="__main__")
        except Found as carrier:
            return carrier.args[0]
    raise AssertionError(f"{module} parses no arguments")


def options_of(parser: argparse.ArgumentParser | click.Command) -> set[str]:
    """All spellings of the options of a parser."""
    if isinstance(parser, argparse.ArgumentParser):
        return set(parser._option_string_actions)
    spellings = [[*param.opts, *param.secondary_opts] for param in parser.params]
    return {"--help", *(spelling for some in spellings for spelling in some)}


def problem(module: str, rest: str) -> str | None:
    """What is wrong with the command `python -m MODULE REST`."""
    words = rest.split()
    if module == "benchmarks":
        first = next(
            (i for i, word in enumerate(words) if not re.fullmatch(r"[a-z]\w*", word)), None
        )
        names, words = words[:first], words[len(words[:first]) :]
        if missing := [name for name in names if f"benchmarks.{name}" not in programs()]:
            return f"no benchmark {missing[0]}"
        if len(names) != 1:
            return None
        module = f"benchmarks.{names[0]}"
    if module not in programs():
        return f"no program {module}"
    parser = parser_of(module)
    if isinstance(parser, click.Group) and words and not words[0].startswith("-"):
        if words[0] not in parser.commands:
            return f"{module} has no command {words[0]}"
        parser = parser.commands[words[0]]
    used = {word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    unknown = used - options_of(parser)
    return f"{module} has no option {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.slow
def test_commands_that_are_named_exist():
    commands, problems = 0, []
    for name, parts in prose().items():
        for module, rest in (match for text in parts for match in COMMAND.findall(text)):
            commands += 1
            if found := problem(module, rest):
                problems.append(f"{name}: {found}: python -m {module}{rest}")
    assert commands > 60
    assert not problems, "\n".join(problems)


def exists(name: str) -> bool:
    """Whether `name` is a module, or an attribute of one."""
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


def test_modules_and_files_that_are_named_exist():
    missing = []
    for name, parts in prose().items():
        for text in parts:
            files = [file for file in FILE.findall(text) if not (ROOT / file).is_file()]
            modules = [module for module in NAME.findall(text) if not exists(module)]
            missing += [f"{name}: {what}" for what in [*files, *modules]]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("module", programs())
def test_help_explains_every_option(module):
    parser = parser_of(module)
    if isinstance(parser, argparse.ArgumentParser):
        assert parser.format_help() and parser.description
        silent = [action.dest for action in parser._actions if not action.help]
    else:
        commands = [parser, *getattr(parser, "commands", {}).values()]
        assert all(command.get_help(click.Context(command)) for command in commands)
        params = [param for command in commands for param in command.params]
        silent = [param.name for param in params if not getattr(param, "help", None)]
    assert not silent, silent


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("python -m recipes.nonsense", "no program"),
        ("python -m recipes.minifaces.world.pen", "no program"),
        ("python -m recipes.wikiart --data x --colour", "no option --colour"),
        ("python -m recipes.compare_sg2_sg3 paint", "no command paint"),
        ("python -m recipes.compare_sg2_sg3 train --data x --kimg 3", "no option --kimg"),
        ("`python -m benchmarks nonsense` runs it", "no benchmark nonsense"),
        ("python -m benchmarks steering --stepps 3", "no option --stepps"),
        ("torchrun -m recipes.minifaces.judge.train --size 3", "no option --size"),
    ],
)
def test_a_wrong_command_is_found(text, wrong):
    ((module, rest),) = COMMAND.findall(text)
    assert wrong in problem(module, rest)
