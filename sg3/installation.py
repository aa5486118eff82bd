"""Check that the packages this toolkit is made of are its own.

The package index has other projects with packages called `guidance` and `nada`. pip installs both
into the same folder without a warning, so the later one overwrites files of the earlier one, and
uninstalling one removes files of the other.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

PACKAGES = ("ops_cuda", "sg3", "guidance", "nada", "recipes", "app_tabs")
#: A line in the `__init__.py` of every package above.
MARK = '__distribution__ = "sg3"'


def problem(name: str) -> str | None:
    """Why the package that `import name` would find is not this toolkit's; None if it is."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return f"the package {name!r} is missing"
    if spec.origin is None:  # a folder without __init__.py
        where = ", ".join(spec.submodule_search_locations or [])
        return f"the package {name!r} in {where} has lost its __init__.py"
    try:
        own = MARK in Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    except OSError:
        own = False
    return None if own else f"the package {name!r} in {spec.origin} belongs to another project"


def check_packages(*names: str) -> None:
    """Raise ImportError, in one line, if one of the packages `names` is not this toolkit's."""
    for name in names:
        reason = problem(name)
        if reason is not None:
            raise ImportError(
                f"sg3: {reason}. Other projects use the names 'guidance' and 'nada' too: install "
                "sg3 into an environment of its own (python -m venv), or uninstall the other and "
                "reinstall sg3 (pip install --force-reinstall --no-deps, from where you got it)"
            )


def shared_names() -> dict[str, list[str]]:
    """Packages of this toolkit that other installed distributions contain files of, with the
    names of these distributions."""
    owners = metadata.packages_distributions()
    found = {name: sorted({*owners.get(name, [])} - {"sg3"}) for name in PACKAGES}
    return {name: others for name, others in found.items() if others}
