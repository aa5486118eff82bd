"""A page with the images that were dropped from a dataset, and why."""

from __future__ import annotations

import base64
import html
import io
from collections import defaultdict
from pathlib import Path

from PIL import Image

from sg3.data.decoding import upright
from sg3.data.transforms import to_mode
from sg3.files import write_text

SIDE = 96  # pixels of a thumbnail
SHOWN = 200  # images per reason; the others are counted

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; max-width: 75rem; }
figure { display: inline-block; width: 9rem; margin: .5rem; vertical-align: top; }
figure div { height: 96px; } img { image-rendering: pixelated; }
figcaption { font-size: 12px; overflow-wrap: anywhere; } small { color: #666; }
"""


def thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG of an image; b"" if it cannot be decoded."""
    try:
        small = to_mode(upright(image, (SIDE, SIDE)), "RGB")
        small.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "jpeg", quality=80)
    except Exception:  # decoders raise anything for damaged bytes, and this is only a picture
        return b""
    return buffer.getvalue()


class Report:
    """Collects images by reason and writes them as one HTML file without outside parts."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._counts: dict[str, int] = defaultdict(int)
        self._figures: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str, detail: str, picture: bytes) -> None:
        """Add an image; `picture` is its `thumbnail`."""
        self._counts[reason] += 1
        if len(self._figures[reason]) == SHOWN:
            return
        shown = "<div></div>"
        if picture:
            data = base64.b64encode(picture).decode()
            shown = f'<div><img src="data:image/jpeg;base64,{data}" alt=""></div>'
        text = f"{_plain(name)}<br><small>{_plain(detail)}</small>"
        self._figures[reason].append(f"<figure>{shown}<figcaption>{text}</figcaption></figure>")

    def write(self, path: str | Path, title: str) -> None:
        """Write the page atomically."""
        parts = [f"<h1>{_plain(title)}</h1>", *(f"<p>{_plain(note)}</p>" for note in self.notes)]
        for reason, count in self._counts.items():
            more = count - len(self._figures[reason])
            parts.append(f"<h2>{_plain(reason)}: {count}</h2>" + "\n".join(self._figures[reason]))
            parts += [f"<p>and {more} more</p>"] if more else []
        head = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_plain(title)}</title>'
        )
        write_text(path, f"{head}<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n")


def _plain(text: str) -> str:
    """Escape text, also names of files that are not UTF-8."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode())
