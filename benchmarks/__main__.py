"""Run benchmarks: `python -m benchmarks [NAME ...]`, or one with options, `NAME --help`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks

#: Run by name only: `make bench` stays under five minutes on two cores.
ON_DEMAND = (
    "app_load", "browser", "dataset_build", "kill_runs", "loading", "official_cost", "training",
)  # fmt: skip


def names() -> list[str]:
    """Return the names of the benchmarks in this folder, sorted."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def summary(name: str) -> str:
    """Return the first line of a benchmark's docstring, without importing it."""
    source = Path(benchmarks.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def usage() -> str:
    """Return the help text."""
    lines = [f"  {name:<14} {summary(name)}" for name in names()]
    return "\n".join(
        [
            "Usage: python -m benchmarks [NAME ...]",
            "       python -m benchmarks NAME [OPTIONS]",
            "",
            "Run the benchmarks NAME; without a name, all except those that take long",
            f"({', '.join(ON_DEMAND)}). Results are printed, and most are written to",
            "out/bench/NAME.json. `python -m benchmarks NAME --help` shows the options of NAME.",
            "",
            "Benchmarks:",
            *lines,
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that `arguments` name; returns the exit status."""
    known = names()
    first = next((i for i, word in enumerate(arguments) if word[0:1] == "-"), len(arguments))
    wanted, options = arguments[:first], arguments[first:]
    if not wanted and {"-h", "--help"} & set(options):
        print(usage())
        return 0
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"Error: no benchmark called {unknown[0]}; expected some of {', '.join(known)}")
        return 2
    if options and len(wanted) != 1:
        print(f"Error: {options[0]}: options need exactly one benchmark; got {len(wanted)}")
        return 2
    for name in wanted or [name for name in known if name not in ON_DEMAND]:
        print(f"== {name}")
        importlib.import_module(f"benchmarks.{name}").main(options)
    if not wanted:
        print(f"Not run, because they take long: {', '.join(ON_DEMAND)}; run them by name")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
