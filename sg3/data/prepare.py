"""Turn pictures of any kind into a data set of equal ones, in the official layout (REFERENCE.md §4.12)."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from sg3.data.formats import (
    Item,
    Label,
    PictureReader,
    PictureSource,
    damage_drops,
    open_source,
)
from sg3.data.ordered import cores, map_in_order
from sg3.data.source import array_shape, shape_text, standard_mode
from sg3.data.transforms import Dropped, Size, check_size, output_size, to_mode, transform_image
from sg3.data.write import IMAGE_FORMATS, check_dest, dataset_writer, encode

MODES = {"rgb": "RGB", "gray": "L", "rgba": "RGBA"}  # beside "auto"
LABELS = ("none", "json", "folders")
FEW = 16  # pictures that are not worth a process


@dataclass(frozen=True)
class Prepared:
    """One source picture: its number, and its new name, shape and label, or why it was dropped.

    `reason` is one of 'unreadable', 'too small', 'wrong shape', 'no label', 'bomb'; `detail`
    says more. `shape` is (C, H, W). `source_bytes` and `bytes` are the sizes of the files.
    """

    index: int
    total: int
    source: str
    name: str | None = None
    shape: tuple[int, int, int] | None = None
    label: Label | None = None
    reason: str | None = None
    detail: str = ""
    source_bytes: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Outcome:
    """What became of a picture: its encoded bytes, or why there are none."""

    data: bytes = b""
    shape: tuple[int, int, int] | None = None
    source_bytes: int = 0
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class _Preparation:
    """What is done to one picture, perhaps in a worker process."""

    reader: PictureReader
    transform: str
    size: Size | None
    min_size: int
    mode: str
    image_format: str

    def __call__(self, item: Item) -> _Outcome:
        try:
            image, source_bytes = self._open(item)
            image = transform_image(image, self.transform, self.size)
        except Dropped as dropped:
            return _Outcome(reason=dropped.reason, detail=dropped.detail)
        return _Outcome(encode(image, self.image_format), array_shape(image), source_bytes)

    def _open(self, item: Item) -> tuple[Image.Image, int]:
        with damage_drops(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what decoders find odd in a picture
            image, source_bytes = self.reader.open(item)
            if min(image.size) < self.min_size:
                raise Dropped("too small", f"{image.width}x{image.height} pixels")
            image.load()
            return to_mode(ImageOps.exif_transpose(image), self.mode), source_bytes


def prepare_dataset(
    source: str | Path,
    dest: str | Path,
    resolution: Size | None = None,
    transform: str = "none",
    max_images: int | None = None,
    *,
    min_size: int = 0,
    labels: str | None = None,
    mode: str = "auto",
    image_format: str = "png",
    jobs: int | None = None,
) -> Iterator[Prepared]:
    """Write the official layout to `dest`, a .zip or a new folder, yielding every picture.

    Args:
        source: a folder (searched recursively), a zip, `cifar-10-python.tar.gz`, MNIST's
            `train-images-idx3-ubyte.gz`, or a folder that the package `datasets` saved.
        resolution: (width, height) in pixels; without it all pictures must have one size.
        transform: 'none', 'center-crop', 'center-crop-wide', 'center-crop-tall'; see
            `sg3.data.transforms.transform_image`.
        max_images: look at that many pictures only.
        min_size: drop pictures whose shorter side has fewer pixels.
        labels: 'json', those that came with the source, in `dataset.json` or otherwise;
            'folders', the first-level folders, sorted. Pictures without a label are dropped.
            None: those of the source if every picture that is kept has one. 'none': no labels.
        mode: 'rgb', 'gray' or 'rgba'; 'auto' is gray if all pictures are, and RGB otherwise.
        image_format: 'png' (not compressed) or 'webp' (lossless; RGB only).
        jobs: processes, by default one per core. What is written does not depend on it.

    Every picture is turned as its EXIF orientation says; of animations the first frame counts.
    `dest` appears when everything is written, and two runs write the same bytes. Raises
    ValueError for options or pictures that do not fit, and if nothing is left. With several
    processes on Windows or macOS, call it below `if __name__ == "__main__"`.
    """
    source, dest = Path(source), Path(dest)
    _check_options(min_size, labels, mode, image_format, jobs)
    size = output_size(transform, resolution)
    check_dest(source, dest)
    pictures = open_source(source)
    known, classes = _choose_labels(pictures, labels)
    total = min(len(pictures.names), max_images or len(pictures.names))
    wanted = [i for i in range(total) if labels in (None, "none") or known[i] is not None]
    found_mode = _find_mode(pictures, wanted, mode, image_format)
    reader = PictureReader(source)
    work = _Preparation(reader, transform, resolution, min_size, found_mode, image_format)
    jobs = min(jobs or cores(), len(wanted) // FEW + 1)
    outcomes = map_in_order(work, (pictures.items[i] for i in wanted), jobs)
    with closing(reader), closing(outcomes), dataset_writer(dest) as write:
        entries, first, dropped = [], None, Counter()
        for index, outcome in _with_gaps(outcomes, wanted, total):
            item = _describe(index, total, pictures.names[index], outcome)
            if item.reason is not None:
                dropped[item.reason] += 1
                yield item
                continue
            first = first or item
            if size is None:
                _check_shape(item, first)
            name = f"{index:08d}"[:5] + f"/img{index:08d}.{image_format}"
            write(name, outcome.data)
            entries.append((name, known[index]))
            yield replace(item, name=name, label=known[index])
        if not entries:
            why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
            raise ValueError(f"data: no picture of {source} could be used ({why})")
        write("dataset.json", _index_file(entries, classes))


def _check_options(
    min_size: int, labels: str | None, mode: str, image_format: str, jobs: int | None
) -> None:
    if labels not in (None, *LABELS):
        raise ValueError(f"--labels: got {labels!r}, expected one of {', '.join(LABELS)}")
    if mode not in ("auto", *MODES):
        raise ValueError(f"--mode: got {mode!r}, expected auto or one of {', '.join(MODES)}")
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"--format: got {image_format!r}, expected {' or '.join(IMAGE_FORMATS)}")
    if image_format == "webp" and mode in ("gray", "rgba"):
        # It knows no gray, and reads back as RGB where nothing is transparent.
        raise ValueError(f"--format: got webp, which keeps RGB only, for --mode {mode}; use png")
    if min_size < 0:
        raise ValueError(f"--min-size: got {min_size}, expected a number of pixels")
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs: got {jobs}, expected at least 1")


def _choose_labels(
    pictures: PictureSource, how: str | None
) -> tuple[Sequence[Label | None], list[str] | None]:
    """A label or None for every picture, and the names of the classes where they have any."""
    if how == "folders":
        return _folder_labels(pictures)
    if how == "json" and pictures.labels is None:
        raise ValueError(
            f"--labels: got json, but {pictures.path} has no labels in a dataset.json; "
            "add them, or use --labels folders or none"
        )
    if how == "none" or pictures.labels is None:
        return [None] * len(pictures.names), None
    return pictures.labels, pictures.classes


def _folder_labels(pictures: PictureSource) -> tuple[list[int | None], list[str]]:
    parts = [PurePosixPath(name).parts for name in pictures.names]
    # Names in an archive may start with / or .. : these are no folders of it.
    tops = [p[0] if len(p) > 1 and p[0] not in ("/", "..") else None for p in parts]
    classes = sorted({top for top in tops if top is not None})
    if not pictures.has_files or len(classes) < 2:
        raise ValueError(
            f"--labels: got folders, but {pictures.path} has no two sub-folders with pictures; "
            "use --labels json or none"
        )
    number = {name: i for i, name in enumerate(classes)}
    return [number.get(top) for top in tops], classes


def _find_mode(pictures: PictureSource, wanted: list[int], mode: str, image_format: str) -> str:
    """Pillow's name of `mode`; 'auto' reads headers up to the first picture that is not gray."""
    if mode != "auto":
        return MODES[mode]
    if image_format == "webp":
        return "RGB"
    with closing(PictureReader(pictures.path)) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in wanted:
            try:
                image, _ = reader.open(pictures.items[index])
            except Dropped:
                continue
            if standard_mode(image) != "L":
                return "RGB"
    return "L"


def _with_gaps(
    outcomes: Iterator[_Outcome], wanted: list[int], total: int
) -> Iterator[tuple[int, _Outcome]]:
    """Numbers 0 … total-1 with the outcome of each; those that are not wanted have no label."""
    numbers = iter([*wanted, total])
    following = next(numbers)
    for index in range(total):
        if index == following:
            yield index, next(outcomes)
            following = next(numbers)
        else:
            yield index, _Outcome(reason="no label", detail="none was found")


def _describe(index: int, total: int, source: str, outcome: _Outcome) -> Prepared:
    return Prepared(
        index,
        total,
        source,
        shape=outcome.shape,
        reason=outcome.reason,
        detail=outcome.detail,
        source_bytes=outcome.source_bytes,
        bytes=len(outcome.data),
    )


def _check_shape(item: Prepared, first: Prepared) -> None:
    """Without a resolution, pictures must have one size, and it must be one for networks."""
    found, remedy = f"data: {item.source} is {shape_text(item.shape)}", "use --resolution WxH"
    if item.shape != first.shape:
        raise ValueError(f"{found}, but {first.source} is {shape_text(first.shape)}; {remedy}")
    try:
        check_size(*item.shape[1:])
    except ValueError:
        raise ValueError(f"{found}, a size that no network takes; {remedy}") from None


def _index_file(entries: list[tuple[str, Label | None]], classes: list[str] | None) -> bytes:
    """`dataset.json`: labels only if every picture has one (REFERENCE.md §4.12)."""
    if any(label is None for _, label in entries):
        return json.dumps({"labels": None}).encode()
    index = {"labels": entries} if classes is None else {"labels": entries, "classes": classes}
    return json.dumps(index).encode()
