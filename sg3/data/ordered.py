"""Work shared among processes whose results come in order, a bounded number of them ahead."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

from sg3.data.workers import CAN_FORK
from sg3.errors import UserError

AHEAD = 4  # items for each process that are worked on or wait for their turn
START_METHOD = "fork" if CAN_FORK else "spawn"

T = TypeVar("T")
R = TypeVar("R")

_work: Callable | None = None  # in a worker: what it does


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if CAN_FORK else os.cpu_count() or 1


def map_in_order(work: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """`work(item)` for every item, in order, by `jobs` processes; 1: by this one.

    `work`, items and results must be picklable. At most 4 items per process are taken from
    `items` ahead of what was handed out. Closing the iterator ends the processes; Ctrl-C is left
    to this process. Raises what `work` raises, and UserError if a process was killed.
    """
    if jobs == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context(START_METHOD)
    pool = ProcessPoolExecutor(jobs, context, _start, (work,))
    pending = deque()
    try:
        for item in items:
            pending.append(pool.submit(_run, item))
            if len(pending) >= AHEAD * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"--jobs: one of {jobs} worker processes was ended (is memory short?); use fewer"
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
    """Idle workers would wait for ever for a parent that was killed."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run(item):
    return _work(item)
