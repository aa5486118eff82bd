"""Where image files lie: a folder (recursive) or a zip archive, behind one small interface."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

#: Extensions that Pillow can read.
IMAGE_EXTENSIONS = frozenset(Image.registered_extensions())


class ImageSource:
    """Files of a folder or zip, by relative name. Safe to read from several threads."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_dir():
            files = (p for p in self.path.rglob("*") if p.is_file())
            names = [p.relative_to(self.path).as_posix() for p in files]
        elif self.path.is_file() and self.path.suffix.lower() == ".zip":
            try:
                self._zip = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise ValueError(f"data: {path} is not a readable zip file ({error})") from None
            names = [n for n in self._zip.namelist() if not n.endswith("/")]
        elif not self.path.exists():
            raise ValueError(f"data: {path} does not exist; expected a folder of images or a .zip")
        else:
            raise ValueError(f"data: {path} is neither a folder nor a .zip file")
        self.names = frozenset(names)
        self.image_names = sorted(n for n in names if Path(n).suffix.lower() in IMAGE_EXTENSIONS)
        if not self.image_names:
            raise ValueError(f"data: no image files found in {path}")

    def read(self, name: str) -> bytes:
        """Content of the file `name`."""
        if self._zip is None:
            return (self.path / name).read_bytes()
        with self._lock:  # one file handle, one seek position
            return self._zip.read(name)

    def open_image(self, name: str) -> Image.Image:
        """The image `name`, decoded. Raises ValueError naming the file if it is damaged."""
        try:
            image = Image.open(io.BytesIO(self.read(name)))
            image.load()
        except (OSError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
            raise ValueError(f"data: cannot read image {name} in {self.path}: {error}") from None
        return image

    def read_labels(self) -> dict[str, int | list[float]] | None:
        """Labels of `dataset.json` by file name, or None if it has none (FACTS 4.11)."""
        if "dataset.json" not in self.names:
            return None
        try:
            labels = json.loads(self.read("dataset.json"))["labels"]
            return None if labels is None else {name: label for name, label in labels}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"data: dataset.json in {self.path} is malformed: {error}") from None

    def close(self) -> None:
        """Release the archive."""
        if self._zip is not None:
            self._zip.close()


def to_array(image: Image.Image) -> np.ndarray:
    """A decoded image as uint8 `[C, H, W]`; gray keeps one channel, palettes become RGB."""
    if image.mode in ("P", "CMYK", "YCbCr", "HSV"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("1", "I", "I;16", "F", "LA"):
        image = image.convert("L")
    array = np.asarray(image, dtype=np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    return np.ascontiguousarray(array.transpose(2, 0, 1))
