"""Cut unaligned crops of faces from the photographs of FFHQ, for `recipes.ffhq_unaligned`.

  python -m recipes.ffhq_unaligned_crops --metadata ffhq-dataset-v2.json --source ffhq \\
    --dest ffhqu-crops

Crops are based on the FFHQ alignment: centre and size follow from the eyes and the mouth (Karras et
al., "Progressive Growing of GANs", arXiv 1710.10196, App. C, which FFHQ reuses). With e₀, e₁ the
mean landmarks of the eyes and m₀, m₁ the corners of the mouth, in pixels, y down:

  a = e₁ − e₀                    from eye to eye
  b = (m₀ + m₁)/2 − (e₀ + e₁)/2  from the eyes to the mouth
  u = a + (b_y, −b_x)            horizontal axis of the face: b turned by 90° is parallel to a
  side   = max(4·|a|, 3.6·|b|)
  centre = (e₀ + e₁)/2 + 0.1·b

The aligned image is the square of that side along u. The unaligned one has the same centre and
side, but the axes of the photograph, so that the head stays tilted; its centre is moved by normal
noise with a standard deviation of `SHIFT` sides in x and y. Squares that leave the photograph are
drawn again; after `TRIES` draws, the square is not moved, and what lies outside is mirrored.

Not verified here, because neither the data nor the tool that made the published dataset was
available: the shift (0.2 from memory; its unit is our choice), the number of draws, and what the
published dataset shows outside a photograph. `--check` compares our squares with the `face_quad` of
the metadata, which tests the formula.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from recipes.processes import map_in_processes
from recipes.run import RecipeCommand, verbatim
from sg3.cli.options import debug_option, option
from sg3.files import atomic_path

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

    Raises ValueError unless `landmarks` are 68 points in pixels, `[68, 2]`, of a face.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks: got shape {list(landmarks.shape)}, expected 68 points")
    left, right = landmarks[LEFT_EYE].mean(axis=0), landmarks[RIGHT_EYE].mean(axis=0)
    eyes, mouth = (left + right) / 2, landmarks[list(MOUTH_CORNERS)].mean(axis=0)
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
    return image.resize((size, size), Image.LANCZOS, box=box)


@dataclass(frozen=True)
class Face:
    """An entry of the metadata."""

    index: int
    path: str  # relative to the folder of the dataset
    landmarks: np.ndarray  # [68, 2], pixels of the photograph
    quad: np.ndarray | None  # [4, 2], the published square


def read_faces(metadata: str | Path) -> list[Face]:
    """Read a file like `ffhq-dataset-v2.json`; returns its faces in the order of their indices.

    Raises ValueError for another kind of file, and for paths outside the folder of the dataset.
    """
    try:
        entries = json.loads(Path(metadata).read_text(encoding="utf-8"))
        faces = []
        for key, entry in entries.items():
            wild = entry["in_the_wild"]
            quad = wild.get("face_quad")
            faces.append(
                Face(
                    index=int(key),
                    path=wild["file_path"],
                    landmarks=np.array(wild["face_landmarks"], np.float64),
                    quad=None if quad is None else np.array(quad, np.float64).reshape(4, 2),
                )
            )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"metadata: {metadata} is not like ffhq-dataset-v2.json ({type(error).__name__}: "
            f"{error}); expected in_the_wild with file_path and face_landmarks in every entry"
        ) from None
    for face in faces:
        path = PurePosixPath(face.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"metadata: got the path {face.path!r}, expected one within `source`")
    return sorted(faces, key=lambda face: face.index)


def quad_errors(faces: list[Face]) -> np.ndarray:
    """Return the largest distance of our corners from the published ones per face, in sides."""
    known = [(aligned_square(f.landmarks), f.quad) for f in faces if f.quad is not None]
    return np.array([np.abs(own.corners() - quad).max() / own.side for own, quad in known])


@dataclass(frozen=True)
class Crop:
    """Outcome for a face: the new file, or the reason why there is none."""

    index: int
    total: int
    path: Path
    reason: str | None = None


def _write_crop(
    face: Face, total: int, source: Path, dest: Path, size: int, shift: float, seed: int
) -> Crop:
    name = f"{face.index // 1000 * 1000:05d}/{face.index:05d}.png"
    path = dest / name
    if path.is_file():  # written before an interruption
        return Crop(face.index, total, path)
    try:
        with Image.open(source / face.path) as opened:
            # No EXIF rotation: landmarks refer to the pixels as stored.
            image = opened.convert("RGB")
        random = np.random.default_rng([seed, face.index])
        square = unaligned_square(aligned_square(face.landmarks), image.size, random, shift)
        crop = cut(image, square, size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Crop(face.index, total, path, reason=" ".join(str(error).split()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        crop.save(temporary, "png", compress_level=1)
    return Crop(face.index, total, path)


def write_crops(
    faces: list[Face],
    source: str | Path,
    dest: str | Path,
    size: int = 1024,
    shift: float = SHIFT,
    seed: int = 0,
    jobs: int = 1,
) -> Iterator[Crop]:
    """Write PNG files, yielding the outcome for every face; existing files are kept.

    A crop depends on `seed` and the index of the face only.

    Args:
        faces: faces to cut out.
        source: folder that their paths are relative to.
        dest: folder to write to.
        size: width and height of the crops in pixels.
        shift: standard deviation of the translation in sides.
        seed: random seed.
        jobs: number of processes.
    """
    write = partial(
        _write_crop, total=len(faces), source=Path(source), dest=Path(dest), size=size,
        shift=shift, seed=seed,
    )  # fmt: skip
    yield from map_in_processes(write, faces, jobs)


@click.command(cls=RecipeCommand, help=verbatim(__doc__))
@option("--metadata", required=True, metavar="JSON", help="The file ffhq-dataset-v2.json.")
@option(
    "--source",
    metavar="DIR",
    unset="needed unless --check",
    help="Folder that its file paths are relative to.",
)
@option(
    "--dest",
    metavar="DIR",
    unset="needed unless --check",
    help="Folder for the crops; the same command resumes after an interruption.",
)
@option(
    "--size", type=click.IntRange(min=1), default=1024, help="Width and height of crops in pixels."
)
@option(
    "--shift",
    type=click.FloatRange(min=0),
    default=SHIFT,
    help="Standard deviation of the translation in sides of the square.",
)
@option("--seed", type=click.IntRange(min=0), default=0, help="Random seed.")
@option("--jobs", type=click.IntRange(min=1), default=1, help="Number of processes.")
@click.option(
    "--check", is_flag=True, help="Compare squares with the published ones; write nothing."
)
@debug_option
def main(metadata: str, source: str | None, dest: str | None, check: bool, **options: Any) -> None:
    """Run the command."""
    faces = read_faces(metadata)
    if check:
        errors = quad_errors(faces)
        worst = f"; largest error {errors.max():.2e} of a side" if len(errors) else ""
        click.echo(f"{len(errors)} of {len(faces)} faces have a published square{worst}")
        return
    if source is None or dest is None:
        raise ValueError("source, dest: got none, expected a folder for each")
    outcomes: Counter[bool] = Counter()
    crops = write_crops(faces, source, dest, **options)
    for crop in tqdm(crops, total=len(faces), disable=None, unit="img"):
        outcomes[crop.reason is None] += 1
        if crop.reason is not None:
            click.echo(f"dropped {crop.index}: {crop.reason}", err=True)
    click.echo(f"{dest}: {outcomes[True]} crops, {outcomes[False]} dropped")


if __name__ == "__main__":
    main(prog_name="python -m recipes.ffhq_unaligned_crops")
