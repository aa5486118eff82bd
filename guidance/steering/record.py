"""What a steering run leaves on disk: pictures, a video, the latent, the losses."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from torch import nn

from guidance.directions.files import write_latent
from guidance.steering.run import Step
from sg3.files import write_text
from sg3.media import VideoWriter, contact_sheet, save_png, to_uint8
from sg3.media.images import enlarge

#: Small pictures are enlarged in the video by whole factors: players blur them otherwise.
VIDEO_SIZE_PX = 256
VIDEO_LENGTH_S = 4.0
VIDEO_HOLD_S = 1.0
SHEET_FRAMES = 10


class Recording:
    """Takes `Step`s as they come and writes files from them.

    with Recording(outdir) as recording:
        for step in steer(...):
            recording.add(step)
    recording.paths                     # what was written

    `video`: whether to write steer.mp4, or where. With `G` the latent's styles are put into its ws
    where the network allows that, so that everything that reads a latent reads it. Steps that no
    file needs are never rendered. When the block ends, even through an exception, the files for the
    steps so far are completed.
    """

    def __init__(
        self,
        outdir: str | os.PathLike,
        video: bool | str | os.PathLike = True,
        metadata: dict[str, str] | None = None,
        G: nn.Module | None = None,
    ):
        self.outdir, self.metadata, self.G = Path(outdir), dict(metadata or {}), G
        self.video = self.outdir / "steer.mp4" if video is True else video and Path(video)
        self.paths: list[Path] = []
        self.first: Step | None = None
        self.last: Step | None = None
        self._losses: list[str] = []
        self._frames: dict[int, tuple[np.ndarray, str]] = {}
        self._writer: VideoWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Recording:
        return self

    def add(self, step: Step) -> None:
        """Take the next step."""
        if self.first is None:
            self.first = step
            self._sheet_steps = set(
                np.linspace(0, step.num_steps, SHEET_FRAMES).round().astype(int)
            )
            self._save("start.png", lambda path: save_png(path, step.image[0]))
            if self.video:
                self._open_video(step.num_steps)
        self.last = step
        terms = {"step": step.index, "loss": step.loss, **step.losses, "sigma": step.sigma}
        self._losses.append(json.dumps(terms))
        if self._writer is not None:
            self._writer.add(self._video_frame(step))
        if step.index in self._sheet_steps:
            self._keep(step)

    def _open_video(self, num_steps: int) -> None:
        fps = min(max(round(num_steps / VIDEO_LENGTH_S), 10), 30)
        writer = VideoWriter(self.video, fps=fps, crf=17)
        self._writer = self._stack.enter_context(writer)

    def _video_frame(self, step: Step) -> np.ndarray:
        return enlarge(to_uint8(step.image), VIDEO_SIZE_PX)[0]

    def _keep(self, step: Step) -> None:
        caption = f"{step.index}: {step.losses['similarity']:.2f}"
        self._frames[step.index] = to_uint8(step.image)[0], caption

    def _save(self, name: str, write) -> None:
        path = self.outdir / name
        write(path)
        self.paths.append(path)

    def __exit__(self, kind, error, traceback) -> None:
        if self.last is None:
            self._stack.close()
            return
        last = self.last
        if self._writer is not None:
            for _ in range(round(self._writer.fps * VIDEO_HOLD_S)):
                self._writer.add(self._video_frame(last))
            self._stack.close()
            self.paths.append(self._writer.path)
        if last.index not in self._frames:
            self._keep(last)
        images, captions = zip(*self._frames.values(), strict=True)
        sheet = contact_sheet(np.stack(images), captions, columns=min(len(images), 5))
        self._save("contact_sheet.png", lambda path: save_png(path, sheet))
        self._save("end.png", lambda path: save_png(path, last.image[0]))
        self._save("latent.safetensors", self._save_latent)
        self._save("losses.jsonl", lambda path: write_text(path, "\n".join(self._losses) + "\n"))

    def _save_latent(self, path: Path) -> None:
        step = json.dumps({"index": self.last.index, "sigma": self.last.sigma})
        latent = self.last.latent if self.G is None else self.last.latent.folded(self.G)
        write_latent(path, latent, {**self.metadata, "step": step})
