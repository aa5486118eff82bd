"""Pictures in Gradio's cache are written once.

Gradio names a picture by what is in it and writes it anew whenever it is drawn again: a browser
that is just fetching it gets the first half of a file. Two visitors with the same seed are enough.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gradio import processing_utils
from PIL import Image


def save_once(img: Image.Image, cache_dir: str, name: str = "image", format: str = "webp") -> str:
    """In place of `gradio.processing_utils.save_pil_to_cache`: what is there stays as it is."""
    data = processing_utils.encode_pil_to_bytes(img, format)
    folder = Path(cache_dir) / processing_utils.hash_bytes(data)
    folder.mkdir(exist_ok=True, parents=True)
    path = (folder / f"{name}.{format}").resolve()
    if path.exists():
        os.utime(path)  # Gradio deletes what has not been used for long
        return str(path)
    handle, unfinished = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    with open(handle, "wb") as file:
        file.write(data)
    os.replace(unfinished, path)
    return str(path)


def write_pictures_once() -> None:
    """From now on, for all of Gradio's components."""
    processing_utils.save_pil_to_cache = save_once
