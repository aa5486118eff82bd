"""Parsers of option values: text in, value out, ValueError in one line."""

from __future__ import annotations

import math
import re
from pathlib import Path

from sg3.errors import UserError

#: Bundled adaptations of mini-faces.
DELTAS = Path(__file__).resolve().parent.parent / "assets" / "deltas"


def parse_seeds(text: str) -> list[int]:
    """`"1,2,5-10"` → `[1, 2, 5, 6, 7, 8, 9, 10]`: numbers and inclusive ranges (REFERENCE.md §9.1).

    Seeds are 0 … 2³²−1, what NumPy's generator accepts. Raises ValueError for anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise UserError(f"seeds: got {text!r}, expected numbers and ranges like 0-7,12")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise UserError(
                f"seeds: got {part.strip()!r}, expected the smaller seed first, such as "
                f"{last}-{first}"
            )
        if last >= 2**32:
            raise UserError(f"seeds: got {part.strip()!r}, expected seeds in 0-4294967295")
        if len(seeds) + last - first >= 1_000_000:
            raise UserError(f"seeds: got {text!r}, expected at most a million")
        seeds.extend(range(first, last + 1))
    return seeds


def parse_class(text: str) -> int | tuple[float, ...]:
    """`"3"` → `3`, a class; `"5.0,90"` → `(5.0, 90.0)`, the numbers of a label; also `"5.0"`.

    Raises ValueError for anything else.
    """
    if re.fullmatch(r"\s*[+-]?\d+\s*", text):
        return int(text)
    try:
        numbers = tuple(float(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"got {text!r}, expected a class like 3, or numbers like 5.0,90")
    return numbers


def parse_vec2(text: str) -> tuple[float, float]:
    """`"0.1,-0.2"` → `(0.1, -0.2)`. Raises ValueError for anything else."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"got {text!r}, expected two numbers like 0.1,-0.2") from None
    return x, y


def parse_size(text: str) -> tuple[int, int]:
    """`"256x192"` → `(256, 192)`, `"256"` → `(256, 256)`: width and height in pixels."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.lower())
    size = match and (int(match[1]), int(match[2] or match[1]))
    if not size or not all(size):
        raise UserError(f"resolution: got {text!r}, expected width and height like 256x256")
    return size


def parse_grid(text: str) -> tuple[int, int]:
    """`"4x2"` → `(4, 2)`: columns and rows. Raises ValueError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*[xX]\s*(\d{1,3})\s*", text)
    grid = match and (int(match[1]), int(match[2]))
    if not grid or not all(grid):
        raise UserError(f"got {text!r}, expected columns x rows like 4x2")
    return grid


def parse_delta(text: str) -> tuple[str, float]:
    """`"zombie.safetensors:0.7"` → `("zombie.safetensors", 0.7)`; the strength defaults to 1.

    Names of bundled deltas stand for their files. File names and drives may contain colons too, so
    the part before the last one is a file only if it exists. Raises ValueError for a missing file
    and for a strength that is not a finite number.
    """
    whole = _delta_file(text)
    if whole is not None:
        return whole, 1.0
    path, _, number = text.rpartition(":")
    file = _delta_file(path)
    if file is None:
        raise _no_delta(text)
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise UserError(f"strength of {path}: got {number!r}, expected a number like 0.7")
    return file, strength


def bundled_deltas() -> list[str]:
    """Return the names of the adaptations of mini-faces that come with the package."""
    return sorted(path.stem for path in DELTAS.glob("*.safetensors"))


def parse_delta_file(text: str) -> str:
    """Return the file of a delta, given by its path or by the name of a bundled one."""
    file = _delta_file(text)
    if file is None:
        raise _no_delta(text)
    return file


def _no_delta(text: str) -> UserError:
    known = ", ".join(bundled_deltas())
    return UserError(f"{text}: no such file; bundled with mini-faces are {known}")


def _delta_file(text: str) -> str | None:
    if Path(text).is_file():
        return text
    bundled = DELTAS / f"{text}.safetensors"
    return str(bundled) if text in bundled_deltas() else None
