"""``python -m benchmarks [NAME ...]``: run the benchmarks of this folder.

Without a name, all but those that need a quiet quarter of an hour (`ON_DEMAND`).
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

import benchmarks

#: Run by name only: `make bench` stays under five minutes on two cores.
ON_DEMAND = ("app_load", "kill_runs", "training")


def names() -> list[str]:
    """Names of the benchmarks in this folder, sorted."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that ``arguments`` name; returns the exit status."""
    known = names()
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\nBenchmarks: {', '.join(known)}\nBy name only: {', '.join(ON_DEMAND)}")
        return 0
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"Error: no benchmark called {unknown[0]}; there are: {', '.join(known) or 'none'}")
        return 2
    if not known:
        print("There are no benchmarks in this repository yet.")
    for name in arguments or [name for name in known if name not in ON_DEMAND]:
        print(f"== {name}")
        importlib.import_module(f"benchmarks.{name}").main()
    if not arguments:
        print(f"Left out, run them by name: {', '.join(ON_DEMAND)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
