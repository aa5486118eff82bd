"""Parallel map over processes with results in order and bounded prefetching."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from sg3.errors import UserError
from sg3.system import START_METHOD

AHEAD = 4  # items per process that are in progress or waiting

T = TypeVar("T")
R = TypeVar("R")

_work: Callable | None = None  # set in worker processes: the function to map


def map_in_order(work: Callable[[T], R], items: Iterable[T], jobs: int) -> Generator[R, None, None]:
    """Yield `work(item)` for every item, in order.

    Args:
        work: the function. It, the items and the results must be picklable.
        items: read at most 4 per process ahead of the results.
        jobs: number of processes. 1: call `work` in this process.

    Closing the iterator ends the processes. They ignore Ctrl-C, which this process handles.
    Raises what `work` raises, and UserError if a process was killed.
    """
    if jobs == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context(START_METHOD)
    pool = ProcessPoolExecutor(jobs, context, _start, (work,))
    pending: deque[Future] = deque()
    try:
        for item in items:
            pending.append(pool.submit(_run, item))
            if len(pending) >= AHEAD * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"jobs: one of {jobs} worker processes was killed (out of memory?); use fewer"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(work: Callable) -> None:
    global _work
    _work = work
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent is gone: an idle worker would wait forever for one that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _run(item: Any) -> Any:
    assert _work is not None
    return _work(item)
