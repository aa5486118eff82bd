"""Files of a steering run: images, a video, the latent, the losses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from guidance.latent_files import write_latent
from guidance.steering.run import SteerStep
from sg3.files import write_text
from sg3.media import VideoWriter, contact_sheet, save_png, to_uint8
from sg3.media.images import enlarge
from sg3.networks.generator import MappedGenerator

#: Small images are enlarged in the video by whole factors; video players would blur them.
VIDEO_SIZE_PX = 256
VIDEO_LENGTH_S = 4.0
VIDEO_HOLD_S = 1.0
MIN_FPS, MAX_FPS = 10, 30
SHEET_FRAMES = 10


class SteeringRecord:
    """Writes the files of a run from its steps.

        with SteeringRecord(outdir) as record:
            for step in steer(...):
                record.add(step)
        record.paths                     # files written

    Steps that no file needs are never rendered. When the block ends, also by an exception, the
    files for the steps so far are completed.

    Args:
        outdir: an existing folder.
        video: True writes steer.mp4; a path writes the video there; False writes none.
        metadata: strings to store with the latent.
        G: folds the latent's styles into ws where this network allows it, so that every command
            that takes a latent can read it.
    """

    def __init__(
        self,
        outdir: str | os.PathLike,
        video: bool | str | os.PathLike = True,
        metadata: dict[str, str] | None = None,
        G: MappedGenerator | None = None,
    ):
        self.outdir, self.metadata, self.G = Path(outdir), dict(metadata or {}), G
        self.video: Path | None = None
        if video:
            self.video = self.outdir / "steer.mp4" if video is True else Path(video)
        self.paths: list[Path] = []
        self.first: SteerStep | None = None
        self.last: SteerStep | None = None
        self._losses: list[str] = []
        self._sheet_steps: set[int] = set()
        self._frames: dict[int, tuple[np.ndarray, str]] = {}
        self._writer: VideoWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> SteeringRecord:
        return self

    def add(self, step: SteerStep) -> None:
        """Record the next step."""
        if self.first is None:
            self.first = step
            numbers = np.linspace(0, step.num_steps, SHEET_FRAMES).round().astype(int)
            self._sheet_steps = set(numbers.tolist())
            self._save("start.png", lambda path: save_png(path, step.image[0]))
            if self.video:
                fps = round(step.num_steps / VIDEO_LENGTH_S)
                writer = VideoWriter(self.video, fps=min(max(fps, MIN_FPS), MAX_FPS), crf=17)
                self._writer = self._stack.enter_context(writer)
        self.last = step
        terms = {"step": step.index, "loss": step.loss, **step.losses, "sigma": step.sigma}
        self._losses.append(json.dumps(terms))
        if self._writer is not None:
            self._writer.add(_video_frame(step))
        if step.index in self._sheet_steps:
            self._add_to_sheet(step)

    def _add_to_sheet(self, step: SteerStep) -> None:
        caption = f"{step.index}: {step.losses['similarity']:.2f}"
        self._frames[step.index] = to_uint8(step.image)[0], caption

    def _save(self, name: str, write: Callable[[Path], None]) -> None:
        path = self.outdir / name
        write(path)
        self.paths.append(path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        last = self.last
        if last is None:
            self._stack.close()
            return
        if self._writer is not None:
            for _ in range(round(self._writer.fps * VIDEO_HOLD_S)):
                self._writer.add(_video_frame(last))
            self._stack.close()
            self.paths.append(self._writer.path)
        if last.index not in self._frames:
            self._add_to_sheet(last)
        images, captions = zip(*self._frames.values(), strict=True)
        sheet = contact_sheet(np.stack(images), captions, columns=min(len(images), 5))
        latent = last.latent if self.G is None else last.latent.folded(self.G)
        step = json.dumps({"index": last.index, "sigma": last.sigma})
        metadata = {**self.metadata, "step": step}
        losses = "\n".join(self._losses) + "\n"
        self._save("contact_sheet.png", lambda path: save_png(path, sheet))
        self._save("end.png", lambda path: save_png(path, last.image[0]))
        self._save("latent.safetensors", lambda path: write_latent(path, latent, metadata))
        self._save("losses.jsonl", lambda path: write_text(path, losses))


def _video_frame(step: SteerStep) -> np.ndarray:
    return enlarge(to_uint8(step.image), VIDEO_SIZE_PX)[0]
