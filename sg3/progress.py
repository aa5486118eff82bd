"""Progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def with_bar(steps: Iterator[T], total: int, desc: str, show: bool) -> Iterator[T]:
    """Return `steps`, with a progress bar if `show`: text in a terminal, a widget in a notebook."""
    if not show:
        return steps
    from tqdm.auto import tqdm as auto_bar

    return iter(auto_bar(steps, total=total, desc=desc, unit="step"))


class ImageBar:
    """A progress bar over images, in stages.

    Args:
        name: text in front of the bar.
        show: whether to show it at all.
        terminal_only: hide it unless stderr is a terminal, for commands whose output is logged.
    """

    def __init__(self, name: str, show: bool = True, terminal_only: bool = True):
        self._name, self._show = name, show and (sys.stderr.isatty() or not terminal_only)
        self._bar: tqdm | None = None
        self._stage = ""

    def update(self, stage: str, done: int, total: int) -> None:
        """Show `done` of `total` images; another `stage` starts a new bar."""
        if self._bar is None or stage != self._stage:
            self.close()
            text = f"{self._name}, {stage}" if stage else self._name
            self._bar = tqdm(desc=text, total=total, unit="img", disable=not self._show)
            self._stage = stage
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Close the current bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> ImageBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
