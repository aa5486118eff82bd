"""Processes that decode images straight into memory shared with the training process."""

from __future__ import annotations

import mmap
import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing import util

import numpy as np

#: Forked workers share the data set's lists without a copy, and need no second import of torch.
CAN_FORK = sys.platform == "linux"


def _work(connection, inherited, decode, ring) -> None:
    """Serve requests until the other end of `connection` is gone."""
    for other in inherited:
        other.close()  # or those workers would never see that the training process has ended
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
    """`workers` processes that fill batches `[slots, batch, *shape]` in shared memory.

    `decode(items, out)` is called in the workers with a part of a batch's items and the rows of
    the batch that they belong to (uint8 array `[len(items), *shape]`); what it returns is handed
    back by `collect`. Batches are collected in the order in which they were sent. Which worker
    gets which part is fixed, so there is no queue that a dying worker could leave locked.

    Workers ignore SIGINT and SIGTERM. They end with `close`, and by themselves when the process
    that made the pool is gone, however it ended.
    """

    def __init__(
        self,
        decode: Callable[[list, np.ndarray], object],
        shape: tuple[int, ...],
        batch: int,
        workers: int,
        slots: int,
    ):
        # Anonymous memory, because /dev/shm is tiny in many containers.
        memory = mmap.mmap(-1, slots * batch * int(np.prod(shape)))
        self._ring = np.frombuffer(memory, dtype=np.uint8).reshape(slots, batch, *shape)
        self._bounds = np.linspace(0, batch, min(workers, batch) + 1).astype(int).tolist()
        self._connections, self._processes = [], []
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
        """Have `items` (at most a batch) decoded into the rows of `slot`."""
        for index, connection in enumerate(self._connections):
            start, stop = self._bounds[index : index + 2]
            try:
                connection.send((slot, start, items[start:stop]))
            except OSError:
                self._fail(index)

    def collect(self, slot: int) -> tuple[np.ndarray, list]:
        """The rows of `slot`, valid until it is sent again, and what each worker returned.

        Raises ValueError for what `decode` found wrong, RuntimeError if a worker died.
        """
        replies, errors = [], []
        for index, connection in enumerate(self._connections):
            try:
                reply = connection.recv()
            except (EOFError, OSError):
                self._fail(index)
            (errors if isinstance(reply, Exception) else replies).append(reply)
        if errors:
            raise errors[0]
        return self._ring[slot], replies

    def _fail(self, index: int) -> None:
        process = self._processes[index]
        process.join(timeout=2)
        code = process.exitcode
        how = "ended" if code is None else f"exited with code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        raise RuntimeError(
            f"data: decoding process {process.pid} {how} (is memory short?); "
            "go on with --resume latest and fewer --workers"
        ) from None

    def close(self) -> None:
        """End the workers; batches that were sent are lost."""
        self._end()


def _end(connections, processes) -> None:
    for process in processes:
        process.kill()  # they hold nothing that could be lost
    for process in processes:
        process.join()
    for connection in connections:
        connection.close()
