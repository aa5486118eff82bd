"""The hub that packages fetch weights from, when it may be out of reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT_SEC = 10


def root_cause(error: BaseException) -> str:
    """What set an exception off, in one line: libraries wrap a missing connection several times."""
    while error.__cause__ or (error.__context__ and not error.__suppress_context__):
        error = error.__cause__ or error.__context__
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 120 else f"{line[:120]}…"


@contextmanager
def ask_hub_once() -> Iterator[None]:
    """Without an answer only the hub's cache is read, instead of minutes of retries."""
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
