"""Prepare a dataset of equally shaped images in the official layout (REFERENCE.md §4.12)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sg3.data.decoding import shape_text, standard_mode
from sg3.data.faces import FaceSquare, read_landmarks
from sg3.data.find_faces import model_path
from sg3.data.formats import ItemReader, SourceImages, open_source
from sg3.data.labels import Label, gap_notes, lost_notes
from sg3.data.listing import top_folder
from sg3.data.ordered import map_in_order
from sg3.data.prepare_image import Outcome, Preparation, Prepared
from sg3.data.report import Report
from sg3.data.source import INDEX
from sg3.data.tallies import Deep, DropCounts, Teller, Twins
from sg3.data.transforms import Dropped, Size, check_size, output_size
from sg3.data.write import IMAGE_FORMATS, check_dest, dataset_writer
from sg3.progress import ImageBar
from sg3.system import cores

MODES = {"rgb": "RGB", "gray": "L", "rgba": "RGBA"}  # in addition to "auto"
LABELS = ("none", "json", "folders")
ALIGN = ("faces", "faces-unaligned")
NEAR_DUPLICATES = ("report", "drop")
FEW = 16  # images per process below which another process is not worth its start


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
    align: str | None = None,
    landmarks: str | Path | None = None,
    near_duplicates: str | None = None,
    report: str | Path | None = None,
    jobs: int | None = None,
    progress: bool = False,
    tell: Callable[[str], object] = lambda note: None,
) -> Generator[Prepared, None, None]:
    """Write a dataset to `dest` and yield the result for every source image.

    Args:
        source: folder (searched recursively), zip, `cifar-10-python.tar.gz`, MNIST's
            `train-images-idx3-ubyte.gz`, or a folder saved by the package `datasets`.
        dest: a .zip or a new folder.
        resolution: (width, height) in pixels. None: keep the size, which must be the same for all.
        transform: 'none', 'center-crop', 'center-crop-wide' or 'center-crop-tall'; see
            `sg3.data.transforms.transform_image`.
        max_images: read at most this many images. None: all.
        min_size: drop images whose shorter side has fewer pixels.
        labels: 'json': labels that came with the source, in `dataset.json` or otherwise;
            'folders': the first-level folders, sorted; images without a label are dropped.
            'none': no labels. None: labels of the source if every image kept has one.
        mode: 'rgb', 'gray' or 'rgba'. 'auto': gray if all images are, else RGB.
        image_format: 'png' (uncompressed) or 'webp' (lossless; RGB only).
        align: 'faces': cut out faces as in FFHQ, upright; 'faces-unaligned': as in FFHQ-U, with
            the tilt of the photograph (`sg3.data.faces`). None: the whole image.
        landmarks: JSON file with 68 or 5 points per image, for `align`; images without are dropped.
            None: `align` finds the largest face of each image with dlib (extra `faces`).
        near_duplicates: 'report': count images that look like an earlier one; 'drop': drop them;
            None: do not look for them (`sg3.data.duplicates`).
        report: HTML file to write, with the images that were dropped and why. None: no file.
        jobs: number of processes. None: one per core. The result does not depend on it.
        progress: show a progress bar.
        tell: called with lines about the whole set: files that are not read, classes without
            images, and the like.

    Images are rotated as their EXIF orientation says; of animations the first frame is used.
    `dest` appears when everything is written, and two runs write the same bytes. Raises
    ValueError for invalid arguments, unusable images, and if no image is left. On Windows and
    macOS, use several processes only below `if __name__ == "__main__"`.
    """
    source, dest = Path(source), Path(dest)
    _check_options(min_size, labels, mode, image_format, near_duplicates)
    for name, value in (("max_images", max_images), ("jobs", jobs)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    _check_alignment(align, landmarks, resolution, transform)
    size = output_size(transform, resolution)
    check_dest(source, dest)
    page = Report()
    images = open_source(source, use_labels=labels in (None, "json"))
    say = Teller(tell, page)
    say(images.notes)
    known, classes = _choose_labels(images, labels)
    total = min(len(images.names), max_images or len(images.names))
    wanted = [i for i in range(total) if labels in (None, "none") or known[i] is not None]
    found_mode = _find_mode(images, wanted, mode, image_format)
    reader = ItemReader(source)
    work = Preparation(
        reader,
        transform,
        resolution,
        min_size,
        found_mode,
        image_format,
        align,
        find_faces=landmarks is None,
        with_look=near_duplicates is not None,
        with_pictures=report is not None,
    )
    jobs = min(jobs or cores(), len(wanted) // FEW + 1)
    squares: Sequence[FaceSquare | None] = [None] * len(images.names)
    if landmarks is not None:
        squares = read_landmarks(landmarks, images.names)
    payload = ((i, images.items[i], squares[i]) for i in wanted)
    outcomes = map_in_order(work, payload, jobs)
    bar = ImageBar("prepare", progress, terminal_only=False)
    with closing(reader), closing(outcomes), dataset_writer(dest) as write, bar:
        entries: list[tuple[str, Label | None]] = []
        deep, twins, dropped = Deep(), Twins(near_duplicates), DropCounts()
        first: Prepared | None = None
        for index, outcome in _with_gaps(outcomes, wanted, total):
            bar.update("", index + 1, total)
            item = twins.judge(_describe(index, total, images.names[index], outcome), outcome, page)
            if item.reason is not None:
                dropped.add(item, outcome, page)
                yield item
                continue
            first = first or item
            deep.add(outcome)
            if size is None:
                _check_shape(item, first)
            name = f"{index:08d}"[:5] + f"/img{index:08d}.{image_format}"
            write(name, outcome.data)
            entries.append((name, known[index]))
            yield replace(item, name=name, label=known[index])
        if not entries:
            raise ValueError(f"source: no image in {source} can be used ({dropped.text()})")
        if labels == "folders":
            entries, classes, lost = _renumbered(entries, classes or [], images)
        else:
            lost = gap_notes([label for _, label in entries if label is not None], classes)
        say([*lost, *deep.notes(), *twins.notes()])
        write(INDEX, _index_file(entries, classes))
    if report is not None:
        page.write(report, f"{source}: {len(entries)} of {total} images kept")


def _renumbered(
    entries: list[tuple[str, Label | None]], classes: list[str], images: SourceImages
) -> tuple[list[tuple[str, Label | None]], list[str], list[str]]:
    """Number classes by the images kept; also return the names left and a note on the others."""
    used = sorted({label for _, label in entries if isinstance(label, int)})
    number = {old: new for new, old in enumerate(used)}
    kept = [classes[old] for old in used]
    lost = {top for name in images.files if (top := top_folder(name)) is not None} - set(kept)
    numbered: list[tuple[str, Label | None]] = [
        (name, number[label]) for name, label in entries if isinstance(label, int)
    ]
    return numbered, kept, lost_notes(lost)


def _check_options(
    min_size: int, labels: str | None, mode: str, image_format: str, near_duplicates: str | None
) -> None:
    if near_duplicates not in (None, *NEAR_DUPLICATES):
        raise ValueError(
            f"near_duplicates: got {near_duplicates!r}, expected {' or '.join(NEAR_DUPLICATES)}"
        )
    if labels not in (None, *LABELS):
        raise ValueError(f"labels: got {labels!r}, expected one of {', '.join(LABELS)}")
    if mode not in ("auto", *MODES):
        raise ValueError(f"mode: got {mode!r}, expected auto or one of {', '.join(MODES)}")
    if image_format not in IMAGE_FORMATS:
        raise ValueError(
            f"image_format: got {image_format!r}, expected {' or '.join(IMAGE_FORMATS)}"
        )
    if image_format == "webp" and mode in ("gray", "rgba"):
        # WebP has no gray, and an RGBA image without transparency reads back as RGB.
        raise ValueError(
            f"image_format: got webp, which stores RGB only, for `mode` {mode}; use png"
        )
    if min_size < 0:
        raise ValueError(f"min_size: got {min_size}, expected at least 0")


def _check_alignment(
    align: str | None, landmarks: str | Path | None, resolution: Size | None, transform: str
) -> None:
    if align not in (None, *ALIGN):
        raise ValueError(f"align: got {align!r}, expected {' or '.join(ALIGN)}")
    if align is None and landmarks is not None:
        raise ValueError("landmarks: expected with `align`, which uses them")
    if align is not None and landmarks is None:
        model_path()  # raises if faces cannot be found
    if align is not None and (resolution is None or resolution[0] != resolution[1]):
        raise ValueError(f"resolution: expected a square size like 256x256 for `align` {align}")
    if align is not None and transform != "none":
        raise ValueError(f"transform: got {transform} with `align`, which crops; leave it out")


def _choose_labels(
    images: SourceImages, how: str | None
) -> tuple[Sequence[Label | None], list[str] | None]:
    """Return a label or None for every image, and the names of the classes, if known."""
    if how == "folders":
        return _folder_labels(images)
    if how == "json" and images.labels is None:
        raise ValueError(
            f"labels: got json, but {images.path} has no labels in a dataset.json; "
            "add them, or use folders or none"
        )
    if how == "none" or images.labels is None:
        return [None] * len(images.names), None
    return images.labels, images.classes


def _folder_labels(images: SourceImages) -> tuple[list[int | None], list[str]]:
    tops = [top_folder(name) for name in images.names]
    classes = sorted({top for top in tops if top is not None})
    if not images.has_files or len(classes) < 2:
        raise ValueError(
            f"labels: got folders, but {images.path} does not have two sub-folders with images; "
            "use json or none"
        )
    number = {name: i for i, name in enumerate(classes)}
    return [None if top is None else number[top] for top in tops], classes


def _find_mode(images: SourceImages, wanted: list[int], mode: str, image_format: str) -> str:
    """Return Pillow's name of `mode`; 'auto' reads headers up to the first image not gray."""
    if mode != "auto":
        return MODES[mode]
    if image_format == "webp":
        return "RGB"
    with closing(ItemReader(images.path)) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in wanted:
            try:
                image, _ = reader.open(images.items[index])
            except Dropped:
                continue
            if standard_mode(image) != "L":
                return "RGB"
    return "L"


def _with_gaps(
    outcomes: Iterator[Outcome], wanted: list[int], total: int
) -> Iterator[tuple[int, Outcome]]:
    """Yield indices 0 … total-1 with their outcomes; images not in `wanted` have no label."""
    numbers = iter([*wanted, total])
    following = next(numbers)
    for index in range(total):
        if index == following:
            yield index, next(outcomes)
            following = next(numbers)
        else:
            yield index, Outcome(reason="no label", detail="none was found")


def _describe(index: int, total: int, source: str, outcome: Outcome) -> Prepared:
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
    """Without a resolution, images must have the same size, one that networks support."""
    assert item.shape is not None and first.shape is not None  # neither was dropped
    found, remedy = f"source: {item.source} is {shape_text(item.shape)}", "set `resolution`"
    if item.shape != first.shape:
        raise ValueError(f"{found}, but {first.source} is {shape_text(first.shape)}; {remedy}")
    try:
        check_size(*item.shape[1:])
    except ValueError:
        raise ValueError(f"{found}, a size that no network supports; {remedy}") from None


def _index_file(entries: list[tuple[str, Label | None]], classes: list[str] | None) -> bytes:
    """Return `dataset.json`, with labels only if every image has one (REFERENCE.md §4.12)."""
    if any(label is None for _, label in entries):
        return json.dumps({"labels": None}).encode()
    index = {"labels": entries} if classes is None else {"labels": entries, "classes": classes}
    return json.dumps(index).encode()
