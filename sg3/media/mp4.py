"""MP4 files through the encoder that comes with imageio-ffmpeg."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from sg3.errors import UserError
from sg3.files import atomic_path


class VideoWriter:
    """Write frames as H.264 (libx264, yuv420p, which every browser plays).

    with VideoWriter("out.mp4", fps=30) as video:
        video.add(frame)                      # uint8 [H, W, 3] or [H, W, 1]

    Give either `bitrate` ("12M") or `crf` (quality, 0 = lossless … 51; 18 if neither).
    Odd sizes are padded by repeating the last row or column: the format needs even ones.
    The file appears under its name when the block ends without an exception.
    Raises UserError for a suffix other than .mp4, ValueError for frames that do not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float = 30,
        bitrate: str | None = None,
        crf: int | None = None,
    ):
        self.path, self.fps = Path(path), fps
        if self.path.suffix.lower() != ".mp4":
            raise UserError(f"video: got {self.path.name!r}, expected a name ending in .mp4")
        if bitrate is not None and crf is not None:
            raise ValueError("bitrate, crf: got both, expected one of them")
        if not fps > 0:
            raise ValueError(f"fps: got {fps}, expected a positive number")
        self.bitrate = bitrate
        self.crf = 18 if crf is None and bitrate is None else crf
        self.frames = 0
        self._shape: tuple[int, ...] | None = None
        self._writer = None
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 [H, W, 3] or [H, W, 1]; all frames have one size."""
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] not in (1, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"frame: got {frame.dtype} {list(frame.shape)}, expected uint8 [H, W, 3 or 1]"
            )
        if self._shape is not None and frame.shape != self._shape:
            raise ValueError(f"frame: got {list(frame.shape)}, expected {list(self._shape)}")
        self._shape = frame.shape
        if frame.shape[2] == 1:
            frame = frame.repeat(3, axis=2)
        height, width = frame.shape[:2]
        frame = np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
        if self._writer is None:
            self._writer = self._open(frame.shape[1], frame.shape[0])
        self._writer.send(np.ascontiguousarray(frame))
        self.frames += 1

    def _open(self, width: int, height: int):
        quality = ["-crf", str(self.crf)] if self.crf is not None else []
        writer = imageio_ffmpeg.write_frames(
            str(self._temporary),
            (width, height),
            fps=self.fps,
            codec="libx264",
            quality=None,
            bitrate=self.bitrate,
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=[*quality, "-movflags", "+faststart"],
        )
        writer.send(None)
        return writer

    def __exit__(self, kind, error, traceback) -> None:
        if self._writer is not None:
            self._writer.close()
        if error is None and self.frames == 0:
            error = ValueError("video: got no frames, expected at least one")
            self._stack.__exit__(type(error), error, None)
            raise error
        self._stack.__exit__(kind, error, traceback)
