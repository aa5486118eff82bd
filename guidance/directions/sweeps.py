"""Sweeps of edits as a contact sheet and as a video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from guidance.directions.base import Edit, EditStep, sweep
from guidance.render import EditedLatent
from sg3.media import VideoWriter, contact_sheet, image_grid, save_png, to_uint8
from sg3.media.images import enlarge
from sg3.networks.generator import MappedGenerator

#: Small images are enlarged in the video by whole factors; video players would blur them.
VIDEO_SIZE_PX = 256


def write_sheet(
    path: str | os.PathLike,
    G: MappedGenerator,
    start: EditedLatent,
    edits: Sequence[Edit],
    columns: int,
) -> EditStep:
    """Write a PNG with one row per latent of `start` and `columns` points of the sweep.

    Without edits there is a single point, and the latents are laid out in rows. Returns the last
    step.
    """
    steps = list(sweep(G, start, edits, columns if edits else 1))
    images = [to_uint8(step.image) for step in steps]
    captions = ["  ".join(f"{alpha:+.3g}" for alpha in step.alphas) or "edited" for step in steps]
    rows = range(len(start.ws))
    cells = [image[row] for row in rows for image in images]
    save_png(path, contact_sheet(cells, captions * len(rows), columns=min(columns, len(cells))))
    return steps[-1]


def write_video(
    path: str | os.PathLike,
    G: MappedGenerator,
    start: EditedLatent,
    edits: Sequence[Edit],
    frames: int,
) -> None:
    """Write an MP4 of `frames` points and back again, which loops; several latents in a grid."""
    shown = [
        enlarge(image_grid(step.image)[None, :, :, :3], VIDEO_SIZE_PX)[0]
        for step in sweep(G, start, edits, frames)
    ]
    with VideoWriter(Path(path), fps=30, crf=17) as writer:
        for frame in [*shown, *shown[-2:0:-1]]:
            writer.add(frame)
