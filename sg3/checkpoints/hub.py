"""Access to the Hugging Face hub when it may be unreachable, and without telemetry."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from sg3.telemetry import turn_off_telemetry

TIMEOUT_SEC = 10
#: The offline switch belongs to the whole process: one block at a time may turn it.
_SWITCH = threading.RLock()


def root_cause(error: BaseException) -> str:
    """Return the message of the innermost exception in one line.

    Libraries wrap a missing connection in several exceptions.
    """
    while True:
        context = None if error.__suppress_context__ else error.__context__
        if (cause := error.__cause__ or context) is None:
            break
        error = cause
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 120 else f"{line[:120]}…"


@contextmanager
def ask_hub_once() -> Iterator[None]:
    """Within the block, use only the local cache if the hub does not answer.

    Its own retries would take minutes.
    """
    turn_off_telemetry()
    from huggingface_hub import constants

    with _SWITCH:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    """Whether a server answers, with whatever status."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT_SEC)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
