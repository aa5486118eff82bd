"""Access to the Hugging Face hub when it may be unreachable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT_SEC = 10


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
    import httpx
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            httpx.head(constants.ENDPOINT, timeout=TIMEOUT_SEC)
        except httpx.TransportError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
