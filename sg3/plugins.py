"""Entry points: how packages above `sg3` add to it without being named in it.

A package declares functions in its `pyproject.toml`::

    [project.entry-points."sg3.features"]
    mine = "my_package.features:register"

and `load_plugins("sg3.features")` calls each of them once.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@cache
def load_plugins(group: str) -> None:
    """Call all functions that installed packages declare in an entry point group.

    A plug-in that fails becomes a warning: the others still work.
    """
    for point in dict.fromkeys([*entry_points(group=group), *declared_here(group)]):
        try:
            point.load()()
        except Exception as error:
            warnings.warn(f"cannot load plug-in {point.value}: {error}", stacklevel=2)


def declared_here(group: str) -> list[EntryPoint]:
    """Return the entry points in this checkout's `pyproject.toml`; none where sg3 is installed.

    They make a checkout work before it is installed, and after an update that adds one.
    """
    try:
        text = PROJECT.read_text(encoding="utf-8")
    except OSError:
        return []
    header = re.escape(f'[project.entry-points."{group}"]')
    section = re.search(rf"^{header}\n((?:[^\[\n].*\n?)*)", text, re.MULTILINE)
    pairs = re.findall(r'^([\w.-]+) = "([\w.]+:\w+)"', section[1] if section else "", re.MULTILINE)
    return [EntryPoint(name, value, group) for name, value in pairs]
