"""Cut unaligned crops of faces from the photographs of FFHQ, for `recipes.ffhq_unaligned`.

  python -m recipes.ffhq_unaligned_crops --metadata ffhq-dataset-v2.json --source ffhq \\
    --dest ffhqu-crops

Crops are based on the FFHQ alignment; `sg3.data.faces` has its formula.

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
from sg3.data.faces import SHIFT, aligned_square, cut, unaligned_square
from sg3.files import atomic_path


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
