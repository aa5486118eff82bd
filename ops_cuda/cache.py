"""The cache folder: downloads, compiled loops."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return `$SG3_CACHE_DIR`, or `~/.cache/sg3` if it is not set."""
    return Path(os.environ.get("SG3_CACHE_DIR") or Path.home() / ".cache" / "sg3").expanduser()
