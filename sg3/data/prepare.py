"""Turn a folder or zip of pictures into a data set of equal squares (FACTS 4.12)."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sg3.data.source import ImageSource
from sg3.files import atomic_path

TRANSFORMS = ("none", "center-crop", "center-crop-wide")


@dataclass(frozen=True)
class Prepared:
    """One source picture: its number, and its new name, or why it was dropped."""

    index: int
    total: int
    source: str
    name: str | None = None
    reason: str | None = None


def transform_image(
    image: Image.Image, transform: str, size: tuple[int, int] | None
) -> Image.Image | None:
    """`image` cropped and resized (Lanczos) to `size` = (width, height); None: too small.

    'center-crop' keeps the central square; 'center-crop-wide' keeps the full width at the aspect
    of `size` and centres the result on a black square; 'none' only resizes.
    """
    if transform == "none":
        return image if size in (None, image.size) else image.resize(size, Image.LANCZOS)
    width, height = size
    if transform == "center-crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side)).resize(size, Image.LANCZOS)
    rows = round(width * image.height / image.width)
    if image.width < width or rows < height:
        return None
    kept = round(height * image.width / width)  # source rows with the target's aspect
    top = (image.height - kept) // 2
    image = image.crop((0, top, image.width, top + kept)).resize(size, Image.LANCZOS)
    canvas = Image.new(image.mode, (width, width))
    canvas.paste(image, (0, (width - height) // 2))
    return canvas


def _check_options(transform: str, size: tuple[int, int] | None) -> None:
    if transform not in TRANSFORMS:
        raise ValueError(f"--transform: got {transform!r}, expected one of {', '.join(TRANSFORMS)}")
    if transform != "none" and size is None:
        raise ValueError(f"--resolution: missing, expected WxH for --transform {transform}")
    if transform == "center-crop" and size[0] != size[1]:
        raise ValueError(
            f"--resolution: got {size[0]}x{size[1]}, expected a square for center-crop"
        )
    if transform == "center-crop-wide" and size[0] < size[1]:
        raise ValueError(f"--resolution: got {size[0]}x{size[1]}, expected it to be wide")


def _check_image(image: Image.Image, first: tuple | None, name: str) -> None:
    width, height = image.size
    if width != height or width & (width - 1):
        raise ValueError(
            f"data: {name} gives {width}x{height} pixels, expected a square whose side is a power "
            "of two; use --resolution with --transform center-crop"
        )
    if first is not None and (image.size, image.mode) != first:
        raise ValueError(
            f"data: {name} gives {width}x{height} {image.mode}, the first picture "
            f"{first[0][0]}x{first[0][1]} {first[1]}; use --resolution and --transform"
        )


def png_bytes(image: Image.Image) -> bytes:
    """`image` as PNG without compression, which reads fastest."""
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=0)
    return buffer.getvalue()


@contextmanager
def _writer(dest: Path):
    """A function (name, bytes) into a zip that appears when complete, or into an empty folder."""
    if dest.suffix.lower() == ".zip":
        dest.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(dest) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            yield archive.writestr  # stored: PNG without compression reads fastest
        return
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise ValueError(f"--dest: {dest} is not empty; expected a new folder or a .zip")

    def write(name: str, data: bytes | str) -> None:
        path = dest / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    yield write


def prepare_dataset(
    source: str | Path,
    dest: str | Path,
    resolution: tuple[int, int] | None = None,
    transform: str = "none",
    max_images: int | None = None,
) -> Iterator[Prepared]:
    """Write the official layout to `dest` (zip or empty folder), yielding every picture.

    Labels of the source's `dataset.json` are kept; they become null if a picture lacks one.
    Unreadable and too small pictures are dropped. Raises ValueError for options or pictures that
    do not fit, and if nothing is left; a zip then does not appear.
    """
    _check_options(transform, resolution)
    files = ImageSource(source)
    old_labels = files.read_labels() or {}
    names = files.image_names[:max_images]
    labels, first = [], None
    with _writer(Path(dest)) as write:
        for index, source_name in enumerate(names):
            try:
                image = files.open_image(source_name)
            except ValueError as error:
                yield Prepared(index, len(names), source_name, reason=str(error))
                continue
            image = image if image.mode in ("L", "RGB") else image.convert("RGB")
            image = transform_image(image, transform, resolution)
            if image is None:
                yield Prepared(index, len(names), source_name, reason="too small")
                continue
            _check_image(image, first, source_name)
            first = first or (image.size, image.mode)
            name = f"{index:08d}"[:5] + f"/img{index:08d}.png"
            write(name, png_bytes(image))
            labels.append((name, old_labels.get(source_name)))
            yield Prepared(index, len(names), source_name, name)
        if not labels:
            raise ValueError(f"data: no picture of {source} could be used")
        complete = all(label is not None for _, label in labels)
        write("dataset.json", json.dumps({"labels": labels if complete else None}))
