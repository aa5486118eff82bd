"""Bounds on plain data from files, before anything walks through them, compares or prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sg3.errors import UserError

MAX_ITEMS = 4096
MAX_DEPTH = 8


def check_small(value: Any, what: str) -> None:
    """Raise ValueError if containers in `value` are nested deeply or hold many items in all.

    Items of a container that occurs twice count twice: pickles may put one into the other again
    and again, so that a few hundred bytes have more items than atoms exist.
    """
    stack, count = [(value, 0)], 0
    while stack:
        current, depth = stack.pop()
        if not isinstance(current, (Mapping, list, tuple, set, frozenset)):
            continue
        count += len(current)
        if count > MAX_ITEMS or depth > MAX_DEPTH:
            raise UserError(f"{what}: too many entries, or nested too deeply")
        children = current.values() if isinstance(current, Mapping) else current
        stack += [(child, depth + 1) for child in children]
