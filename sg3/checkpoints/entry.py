"""What is known of a network that has a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Entry:
    """A known network.

    Attributes:
        name: its name for `sg3.load`.
        source: https URL, hf:// address, path of a file, or file name of a bundled asset.
        resolution: larger side in pixels; 0: unknown.
        licence: licence of the weights.
        sha256: expected hash; None: that of the first download.
        size_bytes: expected size; None: not published.
    """

    name: str
    source: str
    resolution: int
    licence: str
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def bundled(self) -> Path | None:
        """Path of a bundled file, or of the user's own; None for downloads."""
        return None if "://" in self.source else ASSETS / self.source

    @property
    def file_name(self) -> str:
        """File name of the source."""
        return self.source.rsplit("/", 1)[-1]
