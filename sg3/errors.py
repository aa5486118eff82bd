"""The exception for invalid user input, the warning about loaded files, and text from files."""

from __future__ import annotations

from typing import Any

LONGEST = 2000  # characters of a message


class UserError(ValueError):
    """Invalid input. The message is one line: argument, value, what was expected, what to do.

    The command line prints only the message and exits with status 2. Messages may quote files: what
    could control a terminal is escaped, and no message is endless.
    """

    def __init__(self, message: object = ""):
        text = str(message)
        super().__init__(printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…"))


#: What odd content of files raises besides ValueError, where code that reads it is not prepared.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # also RecursionError
    TypeError,
)


class NetworkNote(UserWarning):
    """What the user should know about a network file that was loaded, in one line."""


def printable(text: str) -> str:
    """Return `text` with all control characters escaped, which could take over a terminal."""
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


def brief(value: Any, limit: int = 80) -> str:
    """Return what a message says of a value that a file gives: `limit` printable characters.

    Containers are only named: the text of shared ones in shared ones would have no end.
    """
    if isinstance(value, str):
        return printable(value[:limit])
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):  # the decimal digits of a large one take quadratic time
        return str(value)[:limit] if value.bit_length() < 256 else "a huge number"
    return f"a {type(value).__name__}"
