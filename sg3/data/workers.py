"""Pool of processes that decode images into shared memory."""

from __future__ import annotations

import mmap
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import util
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess


def _work(
    connection: Connection, inherited: list[Connection], decode: Callable, ring: np.ndarray
) -> None:
    """Serve requests until the other end of `connection` is closed."""
    for other in inherited:
        other.close()  # or the other workers would not notice that the training process has ended
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the training process decides when to stop
    try:
        while True:
            slot, start, items = connection.recv()
            try:
                reply = decode(items, ring[slot, start : start + len(items)])
            except Exception as error:
                kind = ValueError if isinstance(error, ValueError) else RuntimeError
                text = str(error) if kind is ValueError else f"{type(error).__name__}: {error}"
                reply = kind(text)
            connection.send(reply)
    except (EOFError, OSError):
        return


class DecodePool:
    """Processes that fill batches `[slots, batch, *shape]` in shared memory.

    Args:
        decode: `decode(items, out)` is called in a worker with its part of a batch's items and
            the rows they belong to, uint8 `[len(items), *shape]`; `collect` returns its results.
        shape: shape of one image.
        batch: maximum number of items per batch.
        workers: number of processes.
        slots: number of batches in memory.

    Batches are collected in the order in which they were sent. Each worker always gets the same
    part of a batch, so there is no queue that a dying worker could leave locked.

    Workers ignore SIGINT and SIGTERM. They end with `close`, or when the process that created
    the pool is gone for whatever reason.
    """

    def __init__(
        self,
        decode: Callable[[list, np.ndarray], object],
        shape: tuple[int, ...],
        batch: int,
        workers: int,
        slots: int,
    ):
        # Anonymous memory: /dev/shm is tiny in many containers.
        memory = mmap.mmap(-1, slots * batch * int(np.prod(shape)))
        self._ring = np.frombuffer(memory, dtype=np.uint8).reshape(slots, batch, *shape)
        self._bounds = np.linspace(0, batch, min(workers, batch) + 1).astype(int).tolist()
        self._connections: list[Connection] = []
        self._processes: list[ForkProcess] = []
        fork = multiprocessing.get_context("fork")
        for index in range(len(self._bounds) - 1):
            ours, theirs = fork.Pipe()
            inherited = [*self._connections, ours]
            arguments = (theirs, inherited, decode, self._ring)
            process = fork.Process(
                target=_work, args=arguments, name=f"sg3-decode-{index}", daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._end = util.Finalize(
            self, _end, args=(self._connections, self._processes), exitpriority=10
        )

    def send(self, slot: int, items: list) -> None:
        """Start decoding `items`, at most a batch, into the rows of `slot`."""
        for index, connection in enumerate(self._connections):
            start, stop = self._bounds[index : index + 2]
            try:
                connection.send((slot, start, items[start:stop]))
            except OSError:
                self._fail(index)

    def collect(self, slot: int) -> tuple[np.ndarray, list]:
        """Return the rows of `slot`, valid until its next `send`, and each worker's result.

        Raises ValueError if `decode` did, RuntimeError if a worker died.
        """
        replies: list[Any] = []
        errors: list[Exception] = []
        for index, connection in enumerate(self._connections):
            try:
                reply = connection.recv()
            except (EOFError, OSError):
                self._fail(index)
            (errors if isinstance(reply, Exception) else replies).append(reply)
        if errors:
            raise errors[0]
        return self._ring[slot], replies

    def _fail(self, index: int) -> NoReturn:
        """Report how a worker ended."""
        process = self._processes[index]
        process.join(timeout=2)
        code = process.exitcode
        how = "ended" if code is None else f"exited with code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        raise RuntimeError(
            f"data: decoding process {process.pid} {how} (out of memory?); "
            "set `resume` to latest to continue, with fewer `workers`"
        ) from None

    def close(self) -> None:
        """End the workers and discard batches in progress."""
        self._end()


def _end(connections: list[Connection], processes: list[ForkProcess]) -> None:
    for process in processes:
        process.kill()  # they hold no state
    for process in processes:
        process.join()
    for connection in connections:
        connection.close()
