"""The folder for what is made or fetched once and kept: downloads, compiled loops."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$SG3_CACHE_DIR`, or `~/.cache/sg3`."""
    return Path(os.environ.get("SG3_CACHE_DIR") or Path.home() / ".cache" / "sg3").expanduser()
