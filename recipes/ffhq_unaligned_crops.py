"""Unaligned crops of the faces in FFHQ's photographs, for `recipes.ffhq_unaligned`.

python -m recipes.ffhq_unaligned_crops --metadata ffhq-dataset-v2.json --source ffhq \\
  --dest ffhqu-crops

A face's square is that of the FFHQ alignment: centre and size follow from the eyes and the mouth
(Karras et al., "Progressive Growing of GANs", arXiv 1710.10196, App. C, which FFHQ reuses). With
e₀, e₁ the mean landmarks of the eyes and m₀, m₁ the corners of the mouth, in pixels, y down:

  a = e₁ − e₀                    from eye to eye
  b = (m₀ + m₁)/2 − (e₀ + e₁)/2  from the eyes to the mouth
  u = a + (b_y, −b_x)            along the face's horizontal: b turned by a quarter agrees with a
  side   = max(4·|a|, 3.6·|b|)
  centre = (e₀ + e₁)/2 + 0.1·b

The aligned picture is the square of that side along u. An unaligned one takes the same centre and
side with axes along those of the photograph, so that the head's tilt remains; its centre is moved
at random, by a standard deviation of `SHIFT` sides in x and y. A draw that leaves the photograph is
repeated; when `TRIES` of them do, the square is not moved, and what lies outside is mirrored.

Not verified here, for want of the data and of the tool that made the published set: that shift (0.2
from memory, in units of the side by our own choice), the number of draws, and what the
published set shows outside a photograph. `--check` compares our squares with the `face_quad` of the
metadata, which decides about the formula.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from recipes.run import RecipeCommand
from sg3.cli.options import debug_option
from sg3.files import atomic_path

LEFT_EYE, RIGHT_EYE, MOUTH_CORNERS = slice(36, 42), slice(42, 48), (48, 54)  # of 68 landmarks
SHIFT, TRIES = 0.2, 1000


@dataclass(frozen=True)
class FaceSquare:
    """A square in a photograph: centre and side in pixels, `axis` the unit vector of its top edge.

    `axis` (1, 0) is upright; (cos t, sin t) is turned clockwise by t, as y points down.
    """

    centre: tuple[float, float]
    side: float
    axis: tuple[float, float] = (1.0, 0.0)

    def corners(self) -> np.ndarray:
        """`[4, 2]`: upper left, lower left, lower right, upper right, as FFHQ's `face_quad`."""
        across = np.array(self.axis) * self.side / 2
        down = np.array([-across[1], across[0]])
        signs = [(-1, -1), (-1, 1), (1, 1), (1, -1)]
        return np.array([np.array(self.centre) + x * across + y * down for x, y in signs])

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of an upright square."""
        (x, y), half = self.centre, self.side / 2
        return x - half, y - half, x + half, y + half


def aligned_square(landmarks: np.ndarray) -> FaceSquare:
    """The square of the FFHQ alignment from `landmarks` `[68, 2]` in pixels."""
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
    """`square` with upright axes, moved at random inside a photograph of (width, height)."""
    centre, side = np.array(square.centre), square.side
    for _ in range(TRIES if shift > 0 else 0):
        moved = centre + random.standard_normal(2) * shift * side
        if (moved >= side / 2).all() and (moved <= np.array(image_size) - side / 2).all():
            centre = moved
            break
    return FaceSquare((float(centre[0]), float(centre[1])), side)


def cut(image: Image.Image, square: FaceSquare, size: int) -> Image.Image:
    """The upright `square` of `image`, `size` pixels wide (Lanczos); mirrored where it is outside.

    Raises ValueError if the square reaches further out than a mirrored copy does.
    """
    left, top, right, bottom = square.box()
    outside = np.array([-left, -top, right - image.width, bottom - image.height])
    border = np.maximum(np.ceil(outside), 0).astype(int)
    if (border >= [image.width, image.height] * 2).any():
        raise ValueError("the face lies too far outside the photograph")
    if border.any():
        (x0, y0, x1, y1), pixels = border, np.asarray(image)
        widths = [(y0, y1), (x0, x1)] + [(0, 0)] * (pixels.ndim - 2)
        image = Image.fromarray(np.pad(pixels, widths, mode="symmetric"))
        left, top, right, bottom = left + x0, top + y0, right + x0, bottom + y0
    box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    return image.resize((size, size), Image.LANCZOS, box=box)


@dataclass(frozen=True)
class Face:
    """One entry of the metadata."""

    index: int
    path: str  # below the folder of the data set
    landmarks: np.ndarray  # [68, 2], pixels of the photograph
    quad: np.ndarray | None  # [4, 2], the published square


def read_faces(metadata: str | Path) -> list[Face]:
    """The faces of a file like `ffhq-dataset-v2.json`, in order of their numbers.

    Raises ValueError for another file, and for paths that lead out of the data set's folder.
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
            f"{error}); expected in_the_wild with file_path and face_landmarks for every number"
        ) from None
    for face in faces:
        path = PurePosixPath(face.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"metadata: got the path {face.path!r}, expected one below --source")
    return sorted(faces, key=lambda face: face.index)


def quad_errors(faces: list[Face]) -> np.ndarray:
    """Largest distance of our corners from the published ones, per face, in sides; `[N]`."""
    known = [(aligned_square(f.landmarks), f.quad) for f in faces if f.quad is not None]
    return np.array([np.abs(own.corners() - quad).max() / own.side for own, quad in known])


@dataclass(frozen=True)
class Crop:
    """What became of a face: the new file, or why there is none."""

    index: int
    total: int
    path: Path
    reason: str | None = None


def _write_crop(
    face: Face, total: int, source: Path, dest: Path, size: int, shift: float, seed: int
) -> Crop:
    name = f"{face.index // 1000 * 1000:05d}/{face.index:05d}.png"
    path = dest / name
    if path.is_file():  # of an earlier, interrupted call
        return Crop(face.index, total, path)
    try:
        with Image.open(source / face.path) as opened:
            # No EXIF rotation: landmarks count the pixels as they are stored.
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
    """Write PNG files to the folder `dest`, yielding every face; files that exist are kept.

    What a face's crop shows depends on `seed` and its number alone.
    """
    write = partial(
        _write_crop, total=len(faces), source=Path(source), dest=Path(dest), size=size,
        shift=shift, seed=seed,
    )  # fmt: skip
    if jobs <= 1:
        yield from map(write, faces)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap(write, faces, chunksize=8)


@click.command(cls=RecipeCommand, help="\b\n" + __doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--metadata", required=True, metavar="JSON", help="ffhq-dataset-v2.json.")
@click.option("--source", metavar="DIR", help="The folder that its file paths start from.")
@click.option("--dest", metavar="DIR", help="Folder for the crops; a second call goes on there.")
@click.option("--size", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option("--shift", type=click.FloatRange(min=0), default=SHIFT, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--check", is_flag=True, help="Only compare squares with the published ones.")
@debug_option
def main(metadata, source, dest, check, **options) -> None:
    faces = read_faces(metadata)
    if check:
        errors = quad_errors(faces)
        worst = f", the worst {errors.max():.2e} of a side apart" if len(errors) else ""
        click.echo(f"{len(errors)} of {len(faces)} faces have a published square{worst}")
        return
    if source is None or dest is None:
        raise ValueError("--source, --dest: missing, expected a folder for each")
    outcomes = Counter()
    crops = write_crops(faces, source, dest, **options)
    for crop in tqdm(crops, total=len(faces), disable=None, unit="img"):
        outcomes[crop.reason is None] += 1
        if crop.reason is not None:
            click.echo(f"dropped {crop.index}: {crop.reason}", err=True)
    click.echo(f"{dest}: {outcomes[True]} crops, {outcomes[False]} dropped")


if __name__ == "__main__":
    main(prog_name="python -m recipes.ffhq_unaligned_crops")
