"""Stop on signals: finish the current step and save, instead of dying in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: Exit status of a command that was stopped, the shell's status for SIGINT.
INTERRUPTED = 130
#: Ctrl-C, and the signal of systems that shut down or schedulers whose time is up.
SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    SIGNALS.append(signal.SIGHUP)  # the terminal was closed, without nohup
if hasattr(signal, "SIGBREAK"):  # Windows: Ctrl-Break, and `sg3.system.ask_to_stop`
    SIGNALS.append(signal.SIGBREAK)


class StopRequest:
    """Callable that returns True after a signal; a second SIGINT raises KeyboardInterrupt.

    Attributes:
        asked: whether a stop was requested.
    """

    def __init__(self, message: str):
        self.asked, self._message = False, message.encode()

    def __call__(self) -> bool:
        return self.asked

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: remember the request; rank 0 writes the message to stderr, once."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        again, self.asked = self.asked, True
        # Launchers pass signals on to all processes, and closing terminals send several.
        if again or os.environ.get("RANK", "0") != "0":
            return
        with suppress(OSError):  # os.write, as print is not safe inside a signal handler
            os.write(2, self._message)


@contextmanager
def stop_requests(
    message: str = "finishing this step, then writing …\n", request: type[StopRequest] = StopRequest
) -> Iterator[StopRequest]:
    """Yield a `StopRequest` that handles signals within the block.

    Args:
        message: written to stderr at the signal.
        request: `StopRequest` or a subclass.
    """
    stop = request(message)
    old = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
