"""Texture sticking: a measure of it, and videos of one pixel column over time.

Along a latent walk, details should move with the objects they belong to; in generators before
StyleGAN3 fine texture stays fixed to pixel coordinates (arXiv 2106.12423, Fig. 1). With H_t the
high-pass of frame t (the image minus its Gaussian blur) and ⟨·⟩ the mean over pixels and channels,

    stickiness = Σ_{s≠t} ⟨H_s·H_t⟩ / ((T−1)·Σ_t ⟨H_t²⟩)
               = (T·⟨M²⟩ − E) / ((T−1)·E),   M = (1/T)·Σ_t H_t,   E = (1/T)·Σ_t ⟨H_t²⟩:

the fraction of the high-pass energy that is fixed to the pixel grid, minus what T unrelated frames
would leave in their mean. It is 1 for a pattern that never moves and 0 for unrelated patterns.
Real structure that is always at the same place (a border, the eyes of aligned faces) counts too, so
compare networks with each other, or with real images, on the same walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from sg3.animation import VideoConfig, cell_keyframes, render, seed_latents, spline_path
from sg3.errors import UserError
from sg3.media import to_uint8
from sg3.media.images import enlarge
from sg3.networks.generator import MappedGenerator

SIGMA_PX = 1.5  # standard deviation of the blur
TITLE_PX = 22
GAP_PX = 6
MAX_SLICE_PX = 1600


def high_pass(x: np.ndarray, sigma_px: float = SIGMA_PX) -> np.ndarray:
    """Return `x` `[N, C, H, W]` minus its Gaussian blur as float64; borders are mirrored."""
    x = x.astype(np.float64)
    return x - gaussian_filter(x, [0, 0, sigma_px, sigma_px], mode="reflect")


class Stickiness:
    """Accumulates the frames of a walk, in memory for one frame, and measures texture sticking."""

    def __init__(self, sigma_px: float = SIGMA_PX):
        self.sigma_px = sigma_px
        self.count, self._energy = 0, 0.0
        self._sum: np.ndarray | float = 0.0

    def add(self, images: torch.Tensor | np.ndarray) -> None:
        """Add frames `[N, C, H, W]`; the unit does not matter."""
        high = high_pass(np.asarray(torch.as_tensor(images).cpu()), self.sigma_px)
        self.count += len(high)
        self._sum = self._sum + high.sum(0)
        self._energy += float(np.square(high).mean(axis=(1, 2, 3)).sum())

    @property
    def fixed_energy(self) -> float:
        """Estimate of the high-pass energy that stays in place: (T·⟨M²⟩ − E) / (T − 1)."""
        mean, energy = np.square(self._sum / self.count).mean(), self._energy / self.count
        return float((self.count * mean - energy) / (self.count - 1))

    @property
    def energy(self) -> float:
        """E, the mean high-pass energy."""
        return self._energy / self.count

    @property
    def value(self) -> float:
        """The stickiness; 0 for frames without detail. Raises ValueError below two frames."""
        if self.count < 2:
            raise UserError(f"frames: got {self.count}, expected at least 2")
        return self.fixed_energy / self.energy if self.energy > 0 else 0.0


@dataclass
class SliceVideo:
    """Video of a latent walk of several networks: the image, and one of its columns over time.

    Iterate `frames` (uint8 `[H, W, 3]`, `num_frames` of them); after that, `image` is the last
    frame, which shows the whole walk, and `stickiness` has a number per title.

    Attributes:
        networks: titles and generators.
        config: seeds and frames of the walk, a "lerp".
        column: the column, from 0 (left) to 1 (right).
        min_size_px: smaller images are enlarged by whole factors.
    """

    networks: Sequence[tuple[str, MappedGenerator]]
    config: VideoConfig
    column: float = 0.5
    min_size_px: int = 192
    stickiness: dict[str, float] = field(default_factory=dict)
    image: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.networks or len({title for title, _ in self.networks}) < len(self.networks):
            raise UserError("networks: expected at least one, with titles that differ")
        if not 0 <= self.column <= 1:
            raise UserError(f"column: got {self.column}, expected 0 (left) to 1 (right)")
        if len(self.config.seeds) < 2 or self.num_frames < 2:
            raise UserError("seeds: got fewer than 2, expected at least 2 keyframes of a walk")
        self._tracks = [_Track(title, G, self) for title, G in self.networks]

    @property
    def num_keyframes(self) -> int:
        """Keyframes of the walk."""
        return self.config.num_keyframes or len(self.config.seeds)

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return self.num_keyframes * self.config.w_frames

    @property
    def frames(self) -> Iterator[np.ndarray]:
        """Render one frame per step of the walk."""
        for paths in zip(*(track.path() for track in self._tracks), strict=True):
            rows = [
                track.step(ws, last=index + 1 == self.num_frames)
                for (track, (index, ws)) in zip(self._tracks, paths, strict=True)
            ]
            width = max(row.shape[1] for row in rows)
            missing = [[(0, 0), (0, width - row.shape[1]), (0, 0)] for row in rows]
            self.image = np.concatenate(
                [np.pad(r, m, constant_values=255) for r, m in zip(rows, missing, strict=True)]
            )
            yield self.image
        self.stickiness = {track.title: track.measure.value for track in self._tracks}


class _Track:
    """One network of a `SliceVideo`."""

    def __init__(self, title: str, G: MappedGenerator, video: SliceVideo):
        self.title, self.G, self.video = title, G, video
        self.measure = Stickiness()
        self._slice: np.ndarray | None = None

    def path(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (index, latent) of every frame."""
        config = self.video.config
        ws = seed_latents(self.G, config).cpu()
        keys = cell_keyframes(ws, 1, self.video.num_keyframes, config.shuffle_seed)
        return enumerate(spline_path(keys, config.w_frames))

    def step(self, ws: torch.Tensor, last: bool) -> np.ndarray:
        """Render the track at `ws`: title, image with its column marked, the column's history."""
        image = render(self.G, ws)
        frame, total = self.measure.count, self.video.num_frames
        self.measure.add(image)
        shown = enlarge(to_uint8(image), self.video.min_size_px)[0]
        shown = shown.repeat(3, axis=2) if shown.shape[2] == 1 else shown[:, :, :3].copy()
        height, width = shown.shape[:2]
        x = min(round(self.video.column * width), width - 1)
        slices = min(total, MAX_SLICE_PX)
        if self._slice is None:
            self._slice = np.full([height, slices, 3], 255, np.uint8)
        # Empty for some frames, if there are more of them than columns.
        now = slice(frame * slices // total, (frame + 1) * slices // total)
        self._slice[:, now] = shown[:, x : x + 1]
        shown[:, x : x + 1] = [255, 0, 0]
        row = np.concatenate([shown, np.full([height, GAP_PX, 3], 255, np.uint8), self._slice], 1)
        number = f": stickiness {self.measure.value:.3f}" if last else ""
        return np.concatenate([_title(self.title + number, row.shape[1]), row])


def _title(text: str, width: int) -> np.ndarray:
    strip = Image.new("RGB", (width, TITLE_PX), "white")
    ImageDraw.Draw(strip).text(
        (4, TITLE_PX // 2), text, fill="black", font=ImageFont.load_default(14), anchor="lm"
    )
    return np.asarray(strip)
