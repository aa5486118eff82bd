"""Names of a run's snapshots: whole kimg as in the official trainer, more digits where needed.

    network-000008.safetensors       the first snapshot between 8 and 9 kimg
    network-000008k512.safetensors   a later one, after 8.512 kimg
    network-snapshot-000008.pkl      of the official trainer

Grids (`fakes000008k512.png`) and averages (`ema-000008k512.safetensors`) have the same numbers.
"k" sorts after ".", so that names are in order of time.
"""

from __future__ import annotations

import re
from pathlib import Path

from sg3.errors import UserError

NUMBER = r"(\d+)(?:k(\d{3}))?"
SNAPSHOT = re.compile(rf"network-(?:snapshot-)?{NUMBER}\.(safetensors|pkl)")
ANY = re.compile(rf"(?:network-(?:snapshot-)?|fakes|ema-){NUMBER}\.\w+")


def snapshot_number(nimg: int, previous_nimg: int | None) -> str:
    """Return the number in the names of a snapshot after `nimg` images.

    Whole kimg, rounded down. If the run's previous snapshot, after `previous_nimg` images, has
    the same, images follow: no snapshot overwrites another.
    """
    kimg, images = divmod(nimg, 1000)
    if previous_nimg is None or previous_nimg // 1000 < kimg:
        return f"{kimg:06d}"
    return f"{kimg:06d}k{images:03d}"


def kimg_in_name(name: str) -> float | None:
    """Return the kimg in the file name of a snapshot, a grid or averages; None for others."""
    found = ANY.fullmatch(Path(name).name)
    return int(found[1]) + int(found[2] or 0) / 1000 if found else None


def last_snapshot(folder: Path) -> Path:
    """Return the last `network-KIMG.safetensors` or `network-snapshot-KIMG.pkl` of a run."""
    named = [(m, p) for p in folder.iterdir() if (m := SNAPSHOT.fullmatch(p.name))]
    if not named:
        raise UserError(f"{folder}: a folder without network-KIMG.safetensors snapshots")
    # Of the same kimg, safetensors come before pickles.
    return max((int(m[1]), int(m[2] or -1), m[3] == "safetensors", p) for m, p in named)[3]
