"""A parallel `map` over worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, chunksize: int = 8
) -> Iterator[Result]:
    """Yield `function(item)` in the order of `items`, computed by `workers` processes.

    With one worker or none, this process computes.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap(function, items, chunksize)
