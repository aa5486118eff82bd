"""Sweeps of edits as a sheet and as a video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from guidance.directions.base import Direction, EditStep, sweep
from guidance.render import EditedLatent
from sg3.media import VideoWriter, contact_sheet, image_grid, save_png, to_uint8

#: Small pictures are enlarged in the video by whole factors: players blur them otherwise.
VIDEO_SIZE_PX = 256
Edits = Sequence[tuple[Direction, float, float]]


def write_sheet(
    path: str | os.PathLike, G: nn.Module, start: EditedLatent, edits: Edits, columns: int
) -> EditStep:
    """Write a PNG with a row for each latent of `start` and a column for each of `columns` points;
    without edits there is one point of each, and the latents follow one another.

    Returns the last point.
    """
    steps = list(sweep(G, start, edits, columns if edits else 1))
    pictures = [to_uint8(step.image) for step in steps]
    captions = ["  ".join(f"{alpha:+.3g}" for alpha in step.alphas) or "edited" for step in steps]
    rows = range(len(start.ws))
    images = [picture[row] for row in rows for picture in pictures]
    save_png(path, contact_sheet(images, captions * len(rows), columns=min(columns, len(images))))
    return steps[-1]


def write_video(
    path: str | os.PathLike, G: nn.Module, start: EditedLatent, edits: Edits, frames: int
) -> None:
    """Write an MP4 of `frames` points there and back again, which loops; latents in a grid."""
    shown = []
    for step in sweep(G, start, edits, frames):
        frame = image_grid(step.image)[:, :, :3]
        factor = max(1, -(-VIDEO_SIZE_PX // min(frame.shape[:2])))
        shown.append(frame.repeat(factor, axis=0).repeat(factor, axis=1))
    with VideoWriter(Path(path), fps=30, crf=17) as writer:
        for frame in [*shown, *shown[-2:0:-1]]:
            writer.add(frame)
