"""A tqdm bar around the iterators that this toolkit returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def with_bar(steps: Iterator[T], total: int, desc: str, show: bool) -> Iterator[T]:
    """`steps`, with a progress bar if `show`: text in a terminal, a widget in a notebook."""
    if not show:
        return steps
    from tqdm.auto import tqdm

    return iter(tqdm(steps, total=total, desc=desc, unit="step"))
