"""Write images in Gradio's cache only once.

Gradio names an image by its content and writes the file again whenever the same image is shown
again, not atomically: a browser that is fetching it receives a truncated file. Two visitors with
the same seed are enough.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gradio import processing_utils
from PIL import Image


def save_once(img: Image.Image, cache_dir: str, name: str = "image", format: str = "webp") -> str:
    """Replace `gradio.processing_utils.save_pil_to_cache`: keep a file that exists."""
    data = processing_utils.encode_pil_to_bytes(img, format)
    folder = Path(cache_dir) / processing_utils.hash_bytes(data)
    folder.mkdir(exist_ok=True, parents=True)
    path = (folder / f"{name}.{format}").resolve()
    if path.exists():
        os.utime(path)  # Gradio deletes files that have not been used for long
        return str(path)
    handle, unfinished = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    with open(handle, "wb") as file:
        file.write(data)
    os.replace(unfinished, path)
    return str(path)


def write_images_once() -> None:
    """Install `save_once` for all Gradio components of this process."""
    processing_utils.save_pil_to_cache = save_once
