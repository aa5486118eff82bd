"""Squares around faces in photographs: the alignment of FFHQ and the unaligned crop of StyleGAN3.

Centre and size follow from the eyes and the mouth (Karras et al., "Progressive Growing of GANs",
arXiv 1710.10196, App. C, which FFHQ reuses). With e₀, e₁ the mean landmarks of the eyes and m₀, m₁
the corners of the mouth, in pixels, y down:

  a = e₁ − e₀                    from eye to eye
  b = (m₀ + m₁)/2 − (e₀ + e₁)/2  from the eyes to the mouth
  u = a + (b_y, −b_x)            horizontal axis of the face: b turned by 90° is parallel to a
  side   = max(4·|a|, 3.6·|b|)
  centre = (e₀ + e₁)/2 + 0.1·b

The aligned image is the square of that side along u. The unaligned one has the same centre and
side, but the axes of the photograph, so that the head stays tilted; its centre is moved by normal
noise with a standard deviation of `SHIFT` sides in x and y. Squares that leave the photograph are
drawn again; after `TRIES` draws, the square is not moved, and what lies outside is mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sg3.data.labels import match_names
from sg3.errors import UserError
from sg3.files import parse_json

LEFT_EYE, RIGHT_EYE, MOUTH_CORNERS = slice(36, 42), slice(42, 48), (48, 54)  # of 68 landmarks
SHIFT, TRIES = 0.2, 1000


@dataclass(frozen=True)
class FaceSquare:
    """A square in a photograph.

    Attributes:
        centre: x and y in pixels.
        side: length of the edges in pixels.
        axis: unit vector of the top edge: (1, 0) is upright; (cos t, sin t) is rotated by t, which
            is clockwise because y points down.
    """

    centre: tuple[float, float]
    side: float
    axis: tuple[float, float] = (1.0, 0.0)

    def corners(self) -> np.ndarray:
        """Return `[4, 2]`: upper left, lower left, lower right, upper right, as in `face_quad`."""
        across = np.array(self.axis) * self.side / 2
        down = np.array([-across[1], across[0]])
        signs = [(-1, -1), (-1, 1), (1, 1), (1, -1)]
        return np.array([np.array(self.centre) + x * across + y * down for x, y in signs])

    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of an upright square."""
        (x, y), half = self.centre, self.side / 2
        return x - half, y - half, x + half, y + half


def aligned_square(landmarks: np.ndarray) -> FaceSquare:
    """Return the square of the FFHQ alignment.

    Args:
        landmarks: 68 points in pixels, `[68, 2]`, in the order of iBUG 300-W, or the 5 points of
            smaller detectors: eyes, nose, corners of the mouth, each from left to right.

    Raises ValueError for anything else.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape not in ((68, 2), (5, 2)) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks: got shape {list(landmarks.shape)}, expected 68 points or 5")
    if len(landmarks) == 5:
        left, right, mouth = landmarks[0], landmarks[1], landmarks[3:].mean(axis=0)
    else:
        left, right = landmarks[LEFT_EYE].mean(axis=0), landmarks[RIGHT_EYE].mean(axis=0)
        mouth = landmarks[list(MOUTH_CORNERS)].mean(axis=0)
    eyes = (left + right) / 2
    across, down = right - left, mouth - eyes
    axis = across + np.array([down[1], -down[0]])
    side = max(4 * np.hypot(*across), 3.6 * np.hypot(*down))
    if not np.hypot(*axis) > 0:
        raise ValueError("landmarks: eyes and mouth coincide, expected a face")
    axis /= np.hypot(*axis)
    centre = eyes + 0.1 * down
    return FaceSquare((float(centre[0]), float(centre[1])), float(side), tuple(axis.tolist()))


def unaligned_square(
    square: FaceSquare,
    image_size: tuple[int, int],
    random: np.random.Generator,
    shift: float = SHIFT,
) -> FaceSquare:
    """Return `square` with upright axes, moved at random within the photograph.

    Args:
        square: square of the alignment.
        image_size: width and height of the photograph.
        random: generator of random numbers.
        shift: standard deviation of the translation in sides.
    """
    centre, side = np.array(square.centre), square.side
    for _ in range(TRIES if shift > 0 else 0):
        moved = centre + random.standard_normal(2) * shift * side
        if (moved >= side / 2).all() and (moved <= np.array(image_size) - side / 2).all():
            centre = moved
            break
    return FaceSquare((float(centre[0]), float(centre[1])), side)


def cut(image: Image.Image, square: FaceSquare, size: int) -> Image.Image:
    """Cut the upright `square` out of `image` and resize it to `size` pixels (Lanczos).

    What lies outside the image is mirrored. Raises ValueError if a mirrored copy does not suffice.
    """
    left, top, right, bottom = square.box()
    outside = np.array([-left, -top, right - image.width, bottom - image.height])
    border = np.maximum(np.ceil(outside), 0).astype(int)
    if (border >= [image.width, image.height] * 2).any():
        raise ValueError("the face is too far outside the photograph")
    if border.any():
        (x0, y0, x1, y1), pixels = border, np.asarray(image)
        widths = [(y0, y1), (x0, x1)] + [(0, 0)] * (pixels.ndim - 2)
        image = Image.fromarray(np.pad(pixels, widths, mode="symmetric"))
        left, top, right, bottom = left + x0, top + y0, right + x0, bottom + y0
    box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def cut_rotated(image: Image.Image, square: FaceSquare, size: int) -> Image.Image:
    """Cut `square` along its own axis out of `image` and resize it to `size` pixels.

    Cut twice as large (bicubic) and then reduced (Lanczos). Outside and errors are as for `cut`.
    """
    radius = square.side * (2**0.5) / 2
    (x, y), sides = square.centre, 2 * radius
    # The upright square around it: what lies outside the photograph is mirrored there.
    scale = min(2 * size / square.side, 1)  # never enlarged before it is turned
    around = max(round(sides * scale), 1)
    part = cut(image, FaceSquare((x, y), sides), around)
    corners = square.corners() - (x - radius, y - radius)
    quad = tuple((corners * around / sides).ravel().tolist())
    large = part.transform(
        (2 * size, 2 * size), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC
    )
    return large.resize((size, size), Image.Resampling.LANCZOS)


def read_landmarks(path: str | Path, names: Sequence[str]) -> list[FaceSquare | None]:
    """Return the aligned square of each image, from a JSON file {image name: points [x, y]}.

    Points are those of `aligned_square`, in pixels of the upright photograph. None for images
    that the file does not have. Raises UserError for another kind of file, or if no name matches.
    """
    try:
        table = parse_json(Path(path).read_text(encoding="utf-8"))
        found = match_names(table, names)
        squares = [None if name is None else aligned_square(table[name]) for name in found]
    except OSError as error:
        raise UserError(f"landmarks: cannot read {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error).removeprefix("landmarks: ")
        raise UserError(
            f"landmarks: {path}: {reason}; expected JSON like {{name: 68 or 5 points [x, y]}}"
        ) from None
    if all(square is None for square in squares):
        raise UserError(
            f"landmarks: {path} has none for these images: its first name is "
            f"{next(iter(table), 'missing')}, the first image {names[0]}"
        )
    return squares
