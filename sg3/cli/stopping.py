"""Being asked to stop: finish the step, keep what there is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Exit status of a command that was stopped, as shells report SIGINT.
INTERRUPTED = 130
#: Ctrl-C, and what systems send before they go down.
SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    SIGNALS.append(signal.SIGHUP)  # the terminal was closed, and nobody said nohup


class StopRequest:
    """Call it: true after a signal. A second SIGINT interrupts at once."""

    def __init__(self, message: str):
        self.asked, self._message = False, message.encode()

    def __call__(self) -> bool:
        return self.asked

    def _ask(self, number, frame) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(OSError):  # not print: a signal may come in the middle of one
            os.write(2, self._message)


@contextmanager
def stop_requests(
    message: str = "finishing this step, then writing …\n", request: type[StopRequest] = StopRequest
) -> Iterator[StopRequest]:
    """A `StopRequest` that listens within the block."""
    stop = request(message)
    old = {number: signal.signal(number, stop._ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
