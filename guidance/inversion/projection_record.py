"""Files of an inversion: images, a video, the latent, the delta, and the photo with the result."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from guidance.generator import generator_of
from guidance.inversion.crops import PhotoCrop, put_back
from guidance.inversion.projection import ProjectStep
from guidance.inversion.tuning import TuneStep
from guidance.latent_files import write_latent
from guidance.render import EditedLatent
from sg3.checkpoints.delta import apply_deltas, difference, save_delta
from sg3.files import atomic_path
from sg3.media import VideoWriter, contact_sheet, save_png, to_uint8
from sg3.media.images import as_rgb, enlarge
from sg3.networks.generator import MappedGenerator

VIDEO_SIZE_PX, VIDEO_LENGTH_S, VIDEO_HOLD_S = 256, 5.0, 1.0
#: Frames per second. With more steps than fit at the largest, only every n-th step is shown.
MIN_FPS, MAX_FPS = 10, 30


class ProjectionRecord:
    """Writes the files of one photo's projection and tuning from their steps.

        with ProjectionRecord(outdir, G, target, total) as record:
            for step in project(G, target):
                record.add(step)
            for step in tune(record.network(), ...):
                record.add(step)
        record.paths                     # files written

    Nothing is written before the first step, and steps that no file needs are never rendered. When
    the block ends, also by an exception, the files for the steps so far are completed.

    Args:
        outdir: an existing folder.
        G: the network as loaded from its file; latent and delta are relative to it.
        target: the image that is projected, `[1, C, H, W]` in [−1, 1].
        total: expected number of steps of projection and tuning together.
        video: write project.mp4.
        metadata: strings to store with the latent.
        photo: the photo and where in it the target was cut out; writes photo.png.
        rank: rank of the delta; None stores all weights that changed.
        adapted: the network used for projection, if that is not `G`.
    """

    def __init__(
        self,
        outdir: str | os.PathLike,
        G: MappedGenerator,
        target: torch.Tensor,
        total: int,
        video: bool = True,
        metadata: dict[str, str] | None = None,
        photo: tuple[Image.Image, PhotoCrop] | None = None,
        rank: int | None = None,
        adapted: MappedGenerator | None = None,
    ):
        self.outdir, self.G, self.target = Path(outdir), G, target
        self.adapted = G if adapted is None else adapted
        self.metadata, self.photo, self.rank = dict(metadata or {}), photo, rank
        self.first: ProjectStep | None = None
        self.projected: ProjectStep | None = None
        self.tuned: TuneStep | None = None
        self.paths: list[Path] = []
        self._images: dict[str, torch.Tensor] = {}
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._video = video
        self._every = max(1, math.ceil(total / (VIDEO_LENGTH_S * MAX_FPS)))
        self._fps = min(max(round(total / VIDEO_LENGTH_S), MIN_FPS), MAX_FPS)
        self._steps = 0

    def __enter__(self) -> ProjectionRecord:
        return self

    def _path(self, name: str) -> Path:
        self.paths.append(self.outdir / name)
        return self.paths[-1]

    def add(self, step: ProjectStep | TuneStep) -> None:
        """Record the next step."""
        if isinstance(step, TuneStep):
            self.tuned = step
        else:
            if self.first is None:
                self._begin(step)
            self.projected = step
        if self._writer is not None and self._steps % self._every == 0:
            self._writer.add(self._frame(step.image))
        self._steps += 1

    def _begin(self, step: ProjectStep) -> None:
        self.first = step
        self._images["start"] = step.image
        save_png(self._path("target.png"), self.target[0])
        save_png(self._path("start.png"), step.image[0])
        if self._video:
            writer = VideoWriter(self._path("project.mp4"), fps=self._fps, crf=17)
            self._writer = self._stack.enter_context(writer)

    def _frame(self, images: torch.Tensor) -> np.ndarray:
        """The target on the left, the image on the right."""
        pair = to_uint8(as_rgb(torch.cat([self.target.to(images), images])))
        frame = rearrange(pair, "n h w c -> 1 h (n w) c")
        return enlarge(frame, VIDEO_SIZE_PX)[0]

    def network(self) -> MappedGenerator:
        """The network after projection, with the transform or noise that was found."""
        assert self.projected is not None, "network() comes after add()"
        return self.projected.network(self.adapted)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.projected is None:
            self._stack.close()
            return
        last = self.tuned or self.projected
        if self._writer is not None:
            for _ in range(round(self._writer.fps * VIDEO_HOLD_S)):
                self._writer.add(self._frame(last.image))
            self._stack.close()
        self._finish(self.projected)

    @torch.no_grad()
    def _finish(self, projected: ProjectStep) -> None:
        ws = projected.ws
        path = self._path("latent.safetensors")
        write_latent(path, EditedLatent(ws), self._latent_metadata(projected))
        end = self._images["projected"] = projected.image
        if self.tuned is not None or projected.buffers:
            network = self.network() if self.tuned is None else self.tuned.tuning.G
            meta = {"source": self.metadata.get("network"), "inversion": True}
            delta = difference(self.G, network, self.rank, meta=meta)
            save_delta(delta, self._path("delta.safetensors"))
            # Show what is stored, including the delta's rounding and rank.
            stored = generator_of(apply_deltas(self.G, [(delta, 1.0)]))
            end = stored.synthesis(ws, noise_mode="const")
            if self.tuned is not None:
                self._images["tuned"] = end
        else:  # the delta of an earlier run here would not belong to this latent
            (self.outdir / "delta.safetensors").unlink(missing_ok=True)
        save_png(self._path("end.png"), end[0])
        save_png(self._path("comparison.png"), self._sheet(end))
        if self.photo is not None:
            image = put_back(*self.photo, to_uint8(end)[0])
            with atomic_path(self._path("photo.png")) as temporary:
                image.save(temporary, format="PNG")

    def _latent_metadata(self, projected: ProjectStep) -> dict[str, str]:
        moved = projected.moved()
        more = {} if moved is None else {"moved": json.dumps(moved)}
        return {**self.metadata, **more, "step": json.dumps({"index": projected.index})}

    def _sheet(self, end: torch.Tensor) -> np.ndarray:
        """The target, the image after each stage, and the remaining error, amplified 4 times."""
        target = as_rgb(self.target.to(end))
        steps = {"start": self.first, "projected": self.projected, "tuned": self.tuned}
        images, captions = [target], ["photo"]
        for name, image in self._images.items():
            step = steps[name]
            assert step is not None
            images.append(as_rgb(image))
            captions.append(f"{name}: {step.distance:.4f}")
        images.append(((as_rgb(end) - target).abs() * 4 - 1).clamp(-1, 1))
        captions.append("difference, 4 times")
        return contact_sheet(torch.cat(images), captions, columns=len(images), min_size_px=160)
