"""What an inversion leaves on disk: pictures, a video, the latent, the delta, the photo again."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from guidance.directions.base import EditedLatent
from guidance.directions.files import write_latent
from guidance.inversion.project import Step
from guidance.inversion.tune import TuneStep
from sg3.checkpoints.delta import apply_deltas, difference, save_delta
from sg3.data.photos import Crop, put_back
from sg3.files import atomic_path
from sg3.media import VideoWriter, contact_sheet, save_png, to_uint8
from sg3.media.images import as_rgb

VIDEO_SIZE_PX, VIDEO_LENGTH_S, VIDEO_HOLD_S = 256, 5.0, 1.0
#: Frames per second, at least and at most; of more steps than fit, every so manieth is shown.
SLOWEST, FASTEST = 10, 30


class Recording:
    """Takes the steps of one photo's projection, then of its tuning, and writes files from them.

    with Recording(outdir, G, target, total) as recording:
        for step in project(G, target): recording.add(step)
        for step in tune(recording.network(), ...): recording.add(step)
    recording.paths                     # what was written

    `G` is the network as it was loaded: the latent and the delta are for that one; `adapted` is
    the one that was projected into, where it is another. `total` steps are expected; those that no
    file needs are never rendered. Nothing is written before the first step. When the block ends,
    even through an exception, the files for the steps so far are completed.
    """

    def __init__(
        self,
        outdir: str | os.PathLike,
        G: nn.Module,
        target: torch.Tensor,
        total: int,
        video: bool = True,
        metadata: dict[str, str] | None = None,
        photo: tuple[Image.Image, Crop] | None = None,
        rank: int | None = None,
        adapted: nn.Module | None = None,
    ):
        self.outdir, self.G, self.target = Path(outdir), G, target
        self.adapted = G if adapted is None else adapted
        self.metadata, self.photo, self.rank = dict(metadata or {}), photo, rank
        self.first: Step | None = None
        self.projected: Step | None = None
        self.tuned: TuneStep | None = None
        self.paths: list[Path] = []
        self._images: dict[str, torch.Tensor] = {}
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._video = video
        self._every = max(1, math.ceil(total / (VIDEO_LENGTH_S * FASTEST)))
        self._fps = min(max(round(total / VIDEO_LENGTH_S), SLOWEST), FASTEST)
        self._steps = 0

    def __enter__(self) -> Recording:
        return self

    def _path(self, name: str) -> Path:
        self.paths.append(self.outdir / name)
        return self.paths[-1]

    def add(self, step: Step | TuneStep) -> None:
        """Take the next step."""
        if isinstance(step, TuneStep):
            self.tuned = step
        else:
            if self.first is None:
                self._begin(step)
            self.projected = step
        if self._writer is not None and self._steps % self._every == 0:
            self._writer.add(self._frame(step.images))
        self._steps += 1

    def _begin(self, step: Step) -> None:
        self.first = step
        self._images["start"] = step.images
        save_png(self._path("target.png"), self.target[0])
        save_png(self._path("start.png"), step.images[0])
        if self._video:
            writer = VideoWriter(self._path("project.mp4"), fps=self._fps, crf=17)
            self._writer = self._stack.enter_context(writer)

    def _frame(self, images: torch.Tensor) -> np.ndarray:
        """The target on the left, the picture on the right."""
        pair = to_uint8(as_rgb(torch.cat([self.target.to(images), images])))
        frame = np.concatenate(list(pair), axis=1)
        factor = max(1, -(-VIDEO_SIZE_PX // frame.shape[0]))
        return frame.repeat(factor, axis=0).repeat(factor, axis=1)

    def network(self) -> nn.Module:
        """The network as projection left it: its transform or noise are what was found."""
        return self.projected.network(self.adapted)

    def __exit__(self, kind, error, traceback) -> None:
        if self.projected is None:
            self._stack.close()
            return
        last = self.tuned or self.projected
        if self._writer is not None:
            for _ in range(round(self._writer.fps * VIDEO_HOLD_S)):
                self._writer.add(self._frame(last.images))
            self._stack.close()
        self._finish()

    @torch.no_grad()
    def _finish(self) -> None:
        ws = self.projected.ws
        write_latent(self._path("latent.safetensors"), EditedLatent(ws), self._latent_metadata())
        end = self._images["projected"] = self.projected.images
        if self.tuned is not None or self.projected.buffers:
            network = self.network() if self.tuned is None else self.tuned.tuning.G
            meta = {"source": self.metadata.get("network"), "inversion": True}
            delta = difference(self.G, network, self.rank, meta=meta)
            save_delta(delta, self._path("delta.safetensors"))
            # What is shown is what is stored, rounding and all.
            end = apply_deltas(self.G, [(delta, 1.0)]).synthesis(ws, noise_mode="const")
            if self.tuned is not None:
                self._images["tuned"] = end
        else:  # one of an earlier run here would not fit this latent
            (self.outdir / "delta.safetensors").unlink(missing_ok=True)
        save_png(self._path("end.png"), end[0])
        save_png(self._path("comparison.png"), self._sheet(end))
        if self.photo is not None:
            picture = put_back(*self.photo, to_uint8(end)[0])
            with atomic_path(self._path("photo.png")) as temporary:
                picture.save(temporary, format="PNG")

    def _latent_metadata(self) -> dict[str, str]:
        moved = self.projected.moved()
        more = {} if moved is None else {"moved": json.dumps(moved)}
        step = {"index": self.projected.index}
        return {**self.metadata, **more, "step": json.dumps(step)}

    def _sheet(self, end: torch.Tensor) -> np.ndarray:
        """Target, the stages, and how far the end is off, four times as strong."""
        target = as_rgb(self.target.to(end))
        distances = {"start": self.first, "projected": self.projected, "tuned": self.tuned}
        pictures, captions = [target], ["photo"]
        for name, image in self._images.items():
            pictures.append(as_rgb(image))
            captions.append(f"{name}: {distances[name].distance:.4f}")
        pictures.append(((as_rgb(end) - target).abs() * 4 - 1).clamp(-1, 1))
        captions.append("difference, 4 times")
        return contact_sheet(torch.cat(pictures), captions, columns=len(pictures), min_size_px=160)
