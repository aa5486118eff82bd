"""Near-duplicates among images: the same picture, resized, recompressed or slightly retouched."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

SIDE = 16  # pixels of the thumbnail that is compared
BLOCK = 8  # lowest frequencies of it, per axis, that form the hash
MAX_BITS = 6  # of 64 that may differ: unrelated pictures differ in 32 on average
MAX_DIFFERENCE = 8  # mean difference of the thumbnails, of 255
GROWTH = 1024  # rows by which the memory grows

_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
# DCT-II; constant factors do not change signs around the median.
_K, _X = np.mgrid[:BLOCK, :SIDE]
_DCT = np.cos(math.pi * _K * (2 * _X + 1) / (2 * SIDE))


def fingerprint(image: Image.Image) -> np.ndarray:
    """Return a gray thumbnail of an image, uint8 `[16, 16]`."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8)


def perceptual_hash(thumbnail: np.ndarray) -> np.ndarray:
    """Return 64 bits, uint8 `[8]`: which low frequencies lie above the median of all."""
    low = _DCT @ thumbnail.astype(np.float64) @ _DCT.T
    return np.packbits(low > np.median(low))


class NearDuplicates:
    """Finds for each image an earlier one that looks the same.

    Two do if their hashes differ in at most 6 of 64 bits and their thumbnails by 8 of 255 on
    average. Every image is compared with all before it, 8 bytes each: 100 000 images take about
    a minute in all.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._hashes = np.empty([0, BLOCK], np.uint8)
        self._thumbnails = np.empty([0, SIDE, SIDE], np.uint8)

    def find(self, thumbnail: np.ndarray) -> str | None:
        """Return the name of the first image added that looks like this one."""
        count = len(self._names)
        differing = _ONES[self._hashes[:count] ^ perceptual_hash(thumbnail)].sum(1)
        for row in np.flatnonzero(differing <= MAX_BITS):
            difference = np.abs(self._thumbnails[row].astype(int) - thumbnail).mean()
            if difference <= MAX_DIFFERENCE:
                return self._names[row]
        return None

    def add(self, name: str, thumbnail: np.ndarray) -> None:
        """Remember an image."""
        count = len(self._names)
        if count == len(self._hashes):
            room = max(GROWTH, count)
            self._hashes = np.concatenate([self._hashes, np.empty([room, BLOCK], np.uint8)])
            more = np.empty([room, SIDE, SIDE], np.uint8)
            self._thumbnails = np.concatenate([self._thumbnails, more])
        self._hashes[count], self._thumbnails[count] = perceptual_hash(thumbnail), thumbnail
        self._names.append(name)
