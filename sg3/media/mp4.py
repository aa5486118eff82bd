"""MP4 videos, encoded by the ffmpeg binary of imageio-ffmpeg."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import imageio_ffmpeg
import numpy as np

from sg3.errors import UserError
from sg3.files import atomic_path

#: YUV of BT.601 at every size, and tags that say so: players take untagged videos of 720 lines
#: and more for BT.709, which turns red into orange. A filter sets the tags, since ffmpeg 9 ignores
#: options such as `-color_primaries`.
COLOR_FILTERS = (
    "scale=out_color_matrix=smpte170m:out_range=tv",
    "format=yuv420p",
    "setparams=colorspace=smpte170m:color_primaries=bt709:color_trc=bt709:range=tv",
)


class VideoWriter:
    """Write frames as H.264 (libx264, yuv420p), which every browser plays.

        with VideoWriter("out.mp4", fps=30) as video:
            video.add(frame)                      # uint8 [H, W, 1, 3 or 4]

    The file appears under its name when the block ends without an exception.

    Args:
        path: a name ending in .mp4.
        fps: frames per second.
        bitrate: target rate such as "12M"; None: constant quality.
        crf: constant quality, 0 (lossless) to 51; None: 18, or none with a `bitrate`.

    Raises ValueError for another suffix, for both `bitrate` and `crf`, and for frames of another
    shape or type.
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
            raise UserError(f"path: got {self.path.name!r}, expected a name ending in .mp4")
        if bitrate is not None and crf is not None:
            raise UserError("bitrate, crf: got both, expected one of them")
        if not 0 < fps < float("inf"):
            raise UserError(f"fps: got {fps}, expected a positive number")
        self.bitrate = bitrate
        self.crf = 18 if crf is None and bitrate is None else crf
        self.frames = 0
        self._shape: tuple[int, ...] | None = None
        self._writer: Generator[None, Any, None] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 `[H, W, 1, 3 or 4]`, RGBA on white; all have one shape."""
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] not in (1, 3, 4) or frame.dtype != np.uint8:
            raise ValueError(
                f"frame: got {frame.dtype} {list(frame.shape)}, expected uint8 [H, W, 1, 3 or 4]"
            )
        if self._shape is not None and frame.shape != self._shape:
            raise ValueError(f"frame: got {list(frame.shape)}, expected {list(self._shape)}")
        self._shape = frame.shape
        if frame.shape[2] == 1:
            frame = frame.repeat(3, axis=2)
        elif frame.shape[2] == 4:
            frame = _on_white(frame)
        height, width = frame.shape[:2]
        # yuv420p halves the chroma planes, so sides must be even: repeat the last row or column.
        frame = np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
        if self._writer is None:
            self._writer = self._open(frame.shape[1], frame.shape[0])
        self._writer.send(np.ascontiguousarray(frame))
        self.frames += 1

    def _open(self, width: int, height: int) -> Generator[None, Any, None]:
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
            # Otherwise frames are scaled to multiples of 16 pixels.
            macro_block_size=1,
            ffmpeg_log_level="error",
            # faststart puts the index first: browsers need not load the whole file to play it.
            output_params=[*quality, "-vf", ",".join(COLOR_FILTERS), "-movflags", "+faststart"],
        )
        writer.send(None)  # starts ffmpeg
        return writer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            # ffmpeg has to finish the file before it gets its final name.
            self._writer.close()
        if error is None and self.frames == 0:
            empty = ValueError(f"{self.path}: got no frames, expected at least one")
            # With the exception: the empty file is removed, not renamed.
            self._stack.__exit__(type(empty), empty, None)
            raise empty
        self._stack.__exit__(kind, error, traceback)


def _on_white(frame: np.ndarray) -> np.ndarray:
    """Composite an RGBA frame on white, as the images of `sg3 dataset` are."""
    alpha = frame[:, :, 3:].astype(np.uint16)
    return ((frame[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
