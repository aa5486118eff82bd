"""Preparation of one image of a dataset, called in worker processes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sg3.data.decoding import array_shape, is_deep, upright, upright_size
from sg3.data.duplicates import fingerprint
from sg3.data.faces import FaceSquare, cut, cut_rotated, unaligned_square
from sg3.data.find_faces import find_face
from sg3.data.formats import Item, ItemReader, damage_drops
from sg3.data.labels import Label
from sg3.data.report import thumbnail
from sg3.data.transforms import Dropped, Size, fit_image, to_mode
from sg3.data.write import encode


@dataclass(frozen=True)
class Prepared:
    """Result for one source image: where it was written, or why it was dropped.

    Attributes:
        index: number of the image in the source, from 0.
        total: number of images in the source.
        source: name of the image in the source.
        name: file name in the dataset; None if dropped.
        shape: (C, H, W).
        label: class or vector, if any. Folders from which no image is kept are classes here, but
            not in the dataset.
        reason: why it was dropped: 'unreadable', 'too small', 'wrong shape', 'no label',
            'near-duplicate', 'no landmarks', 'no face', 'unknown range' (of deep images) or 'bomb'
            (decompression bomb);
            None if written.
        detail: details of `reason`.
        source_bytes: file size in the source.
        bytes: file size in the dataset.
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
class Outcome:
    """Result of processing one image: encoded bytes, or why there are none."""

    data: bytes = b""
    shape: tuple[int, int, int] | None = None
    source_bytes: int = 0
    reason: str | None = None
    detail: str = ""
    deep: bool = False
    brightest: int = 0
    look: np.ndarray | None = None  # `fingerprint`, if near-duplicates are looked for
    picture: bytes = b""  # `thumbnail`, for the report


@dataclass(frozen=True)
class Preparation:
    """Processing of one image, called in worker processes."""

    reader: ItemReader
    transform: str
    size: Size | None
    min_size: int
    mode: str
    image_format: str
    align: str | None = None
    find_faces: bool = False
    with_look: bool = False
    with_pictures: bool = False

    def __call__(self, work: tuple[int, Item, FaceSquare | None]) -> Outcome:
        """Prepare image number `work[0]`; the square is that of its face, if faces are aligned."""
        index, item, square = work
        opened: Image.Image | None = None
        try:
            with damage_drops(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # decoders warn about harmless oddities
                opened, source_bytes = self.reader.open(item)
                width, height = upright_size(opened)
                if min(width, height) < self.min_size:
                    raise Dropped("too small", f"{width}x{height} pixels")
                deep = is_deep(opened)
                if self.align is None:
                    image = fit_image(opened, self.mode, self.transform, self.size)
                else:
                    image = self._face(opened, square, index)
        except Dropped as dropped:
            return Outcome(
                reason=dropped.reason,
                detail=dropped.detail,
                picture=self._picture(opened, dropped.reason),
            )
        return Outcome(
            data=encode(image, self.image_format),
            shape=array_shape(image),
            source_bytes=source_bytes,
            deep=deep,
            brightest=int(np.asarray(opened).max()) if deep else 0,
            look=fingerprint(image) if self.with_look else None,
            picture=self._picture(image) if self.with_look else b"",
        )

    def _face(self, opened: Image.Image, square: FaceSquare | None, index: int) -> Image.Image:
        if square is None and not self.find_faces:
            raise Dropped("no landmarks", "none were given")
        assert self.size is not None  # checked with the options
        image = to_mode(upright(opened), self.mode)
        square = square or find_face(image)
        if square is None:
            raise Dropped("no face", "none was found")
        if self.align == "faces":
            return cut_rotated(image, square, self.size[0])
        random = np.random.default_rng([0, index])
        return cut(image, unaligned_square(square, image.size, random), self.size[0])

    def _picture(self, image: Image.Image | None, reason: str = "") -> bytes:
        # A bomb is not decoded for its picture either.
        shown = self.with_pictures and image is not None and reason not in ("bomb", "unreadable")
        return thumbnail(image) if shown and image is not None else b""
