"""Do details stick to the pixel grid? A number, and the picture of one column over time.

While a latent walks, details ought to move with the things they belong to; in generators before
StyleGAN3 fine texture stays where it is on the screen (arXiv 2106.12423, Fig. 1). With H_t the
high-pass of frame t (the picture less its Gaussian blur) and ⟨·⟩ the mean over pixels and channels,

    stickiness = Σ_{s≠t} ⟨H_s·H_t⟩ / ((T−1)·Σ_t ⟨H_t²⟩)
               = (T·⟨M²⟩ − E) / ((T−1)·E),   M = (1/T)·Σ_t H_t,   E = (1/T)·Σ_t ⟨H_t²⟩:

the share of the high-pass energy that is fixed to the pixel grid, less what T frames without any
relation would leave in their mean. 1 for a pattern that never moves, 0 for patterns that have
nothing to do with each other. What things have in common at the same place counts too (a border,
the eyes of aligned faces), so compare networks, or a network and real pictures, on the same walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from torch import nn

from sg3.animation import VideoConfig, cell_keyframes, render, seed_latents, spline_path
from sg3.errors import UserError
from sg3.media import to_uint8
from sg3.media.images import enlarge

SIGMA_PX = 1.5  # of the blur
TITLE_PX = 22
GAP_PX = 6
MAX_SLICE_PX = 1600


def high_pass(x: np.ndarray, sigma_px: float = SIGMA_PX) -> np.ndarray:
    """`x` `[N, C, H, W]` less its Gaussian blur, float64; borders are mirrored."""
    x = x.astype(np.float64)
    return x - gaussian_filter(x, [0, 0, sigma_px, sigma_px], mode="reflect")


class Stickiness:
    """Collects the frames of a walk; only one frame's worth of sums is kept."""

    def __init__(self, sigma_px: float = SIGMA_PX):
        self.sigma_px = sigma_px
        self.count, self._energy = 0, 0.0
        self._sum: np.ndarray | float = 0.0

    def add(self, pictures: torch.Tensor | np.ndarray) -> None:
        """Frames `[N, C, H, W]` in any unit."""
        high = high_pass(np.asarray(torch.as_tensor(pictures).cpu()), self.sigma_px)
        self.count += len(high)
        self._sum = self._sum + high.sum(0)
        self._energy += float(np.square(high).mean(axis=(1, 2, 3)).sum())

    @property
    def fixed_energy(self) -> float:
        """Estimate of the energy that stays in place: T·⟨M²⟩ − E over T − 1."""
        mean, energy = np.square(self._sum / self.count).mean(), self._energy / self.count
        return float((self.count * mean - energy) / (self.count - 1))

    @property
    def energy(self) -> float:
        """E, the mean energy of the high-pass."""
        return self._energy / self.count

    @property
    def value(self) -> float:
        """Raises UserError for fewer than two frames; 0 for frames without any detail."""
        if self.count < 2:
            raise UserError(f"frames: got {self.count}, expected at least 2")
        return self.fixed_energy / self.energy if self.energy > 0 else 0.0


@dataclass
class SliceFilm:
    """A latent walk of several networks: the picture, and one of its columns over time.

    Drain `frames` (uint8 `[H, W, 3]`, `num_frames` of them); then `picture` is the whole of it, and
    `stickiness` has a number for every title.
    """

    networks: Sequence[tuple[str, nn.Module]]
    config: VideoConfig
    column: float = 0.5  # of the width
    min_size_px: int = 192
    stickiness: dict[str, float] = field(default_factory=dict)
    picture: np.ndarray | None = None

    def __post_init__(self):
        if not self.networks or len({title for title, _ in self.networks}) < len(self.networks):
            raise UserError("networks: expected one or more, each with its own title")
        if not 0 <= self.column <= 1:
            raise UserError(f"column: got {self.column}, expected 0 (left) to 1 (right)")
        if len(self.config.seeds) < 2 or self.num_frames < 2:
            raise UserError("seeds: got fewer than 2, expected the keyframes of a walk")
        self._tracks = [_Track(title, G, self) for title, G in self.networks]

    @property
    def num_keyframes(self) -> int:
        return self.config.num_keyframes or len(self.config.seeds)

    @property
    def num_frames(self) -> int:
        return self.num_keyframes * self.config.w_frames

    @property
    def frames(self) -> Iterator[np.ndarray]:
        """One frame per step of the walk."""
        for paths in zip(*(track.path() for track in self._tracks), strict=True):
            rows = [
                track.step(ws, last=index + 1 == self.num_frames)
                for (track, (index, ws)) in zip(self._tracks, paths, strict=True)
            ]
            width = max(row.shape[1] for row in rows)
            missing = [[(0, 0), (0, width - row.shape[1]), (0, 0)] for row in rows]
            self.picture = np.concatenate(
                [np.pad(r, m, constant_values=255) for r, m in zip(rows, missing, strict=True)]
            )
            yield self.picture
        self.stickiness = {track.title: track.measure.value for track in self._tracks}


class _Track:
    """One network of a `SliceFilm`."""

    def __init__(self, title: str, G: nn.Module, film: SliceFilm):
        self.title, self.G, self.film = title, G, film
        self.measure = Stickiness()
        self._slice: np.ndarray | None = None

    def path(self) -> Iterator[tuple[int, torch.Tensor]]:
        config = self.film.config
        ws = seed_latents(self.G, config).cpu()
        keys = cell_keyframes(ws, 1, self.film.num_keyframes, config.shuffle_seed)
        return enumerate(spline_path(keys, config.w_frames))

    def step(self, ws: torch.Tensor, last: bool) -> np.ndarray:
        """Title, picture with its column marked, the column's past."""
        image = render(self.G, ws)
        frame, total = self.measure.count, self.film.num_frames
        self.measure.add(image)
        shown = enlarge(to_uint8(image), self.film.min_size_px)[0]
        shown = shown.repeat(3, axis=2) if shown.shape[2] == 1 else shown[:, :, :3].copy()
        height, width = shown.shape[:2]
        x = min(round(self.film.column * width), width - 1)
        slices = min(total, MAX_SLICE_PX)
        if self._slice is None:
            self._slice = np.full([height, slices, 3], 255, np.uint8)
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
