"""Average power spectra of pictures (SG3 App. A; REFERENCE.md §6.4), and charts of them.

Pictures in bytes are normalised by one mean and one standard deviation for all sources of a chart,
those of all pixels of the first source, so that levels can be compared. Each is multiplied by a
symmetric Kaiser window (beta 8, mean power 1), padded with zeros to four times its size, and the
squared magnitudes of its Fourier transform are averaged over pictures and channels: white noise of
variance 1 gives 0 dB everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from sg3.analysis.colours import viridis
from sg3.analysis.drawing import COLOURS, Axes, Drawing
from sg3.errors import UserError
from sg3.files import atomic_path
from sg3.metrics.sampling import images_per_pass, to_bytes

BETA = 8
INTERPOLATION = 4
SMOOTHING = 1.25  # of heat maps, in cycles per image
HEAT_DB = (-40.0, 20.0)
HEAT_STEP_DB = 5.0
SLICE_DB = (-50.0, 30.0)
PLANE_VALUES = 1 << 22  # of padded channels that are transformed together
HEAT_PX, CHART_PX = 240, 320


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation in bytes, and whose they are."""

    mean: float
    std: float
    source: str = "given"


@dataclass(frozen=True)
class Spectrum:
    """`power` float64 `[4·size, 4·size]`, frequency zero first, of `num` pictures of `size`²."""

    name: str
    power: np.ndarray
    size: int
    num: int

    def centred_db(self) -> np.ndarray:
        """Decibels `[4·size + 1, 4·size + 1]` from −size/2 to size/2 cycles per image: zero in the
        middle, the first row and column repeated at the end."""
        power = np.fft.fftshift(self.power)
        power = np.pad(power, [(0, 1), (0, 1)], mode="wrap")
        return 10 * np.log10(np.maximum(power, 1e-12))

    def slices(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Frequencies in cycles per image, and decibels, along 0° and 45° from the centre."""
        db = self.centred_db()
        middle = len(db) // 2
        frequency = np.arange(middle + 1) / INTERPOLATION
        diagonal = np.arange(middle, len(db))
        return {
            0: (frequency, db[middle, middle:]),
            45: (frequency * 2**0.5, db[diagonal, diagonal]),
        }

    def save(self, path: str | Path) -> None:
        """Write an .npz with `spectrum` and `image_size`, as the official tool does."""
        with atomic_path(path) as temporary:
            np.savez(temporary, spectrum=self.power, image_size=self.size)


@torch.no_grad()
def generated_bytes(
    G: nn.Module, num: int, seed: int = 0, truncation_psi: float = 1
) -> Iterator[torch.Tensor]:
    """uint8 `[B, C, H, W]`: picture i from the stream of random numbers of `seed` + i, which draws
    z, then the class where there are any. Constant noise."""
    device, together = next(G.parameters()).device, images_per_pass(G.img_height, G.img_width)
    for start in range(0, num, together):
        z, c = [], []
        for i in range(start, min(start + together, num)):
            random = np.random.RandomState((seed + i) % 2**32)
            z.append(random.randn(G.z_dim).astype(np.float32))
            c.append(np.eye(G.c_dim, dtype=np.float32)[random.randint(G.c_dim)] if G.c_dim else [])
        z, c = (torch.from_numpy(np.array(part, np.float32)).to(device) for part in (z, c))
        yield to_bytes(G(z, c, truncation_psi=truncation_psi, noise_mode="const"))


def mean_and_std(batches: Iterable[torch.Tensor], source: str = "given") -> Normalisation:
    """Over all pixels and channels of uint8 `[B, C, H, W]`."""
    count, total, squares = 0, 0, 0
    for batch in batches:
        values = batch.to("cpu", torch.int64)
        count += values.numel()
        total, squares = total + int(values.sum()), squares + int(values.square().sum())
    if not count:
        raise UserError("spectra: got no pictures, expected at least one")
    mean = total / count
    return Normalisation(mean, (squares / count - mean**2) ** 0.5, source)


def average_spectrum(
    name: str,
    batches: Iterable[torch.Tensor],
    norm: Normalisation,
    progress: Callable[[int], None] = lambda done: None,
) -> Spectrum:
    """Of uint8 pictures `[B, C, size, size]`; few channels are transformed at a time.

    Raises UserError for pictures that are not square or whose size changes, for none, and for a
    standard deviation of 0.
    """
    if not norm.std > 0:
        raise UserError(f"std: got {norm.std}, expected a positive number of bytes")
    size, num, planes, half = 0, 0, 0, 0.0
    for batch in batches:
        batch = batch.cpu().numpy()
        if batch.shape[2] != batch.shape[3] or size not in (0, batch.shape[2]):
            wanted = f"{size}x{size}" if size else "a square"
            raise UserError(
                f"spectra: got pictures of {batch.shape[3]}x{batch.shape[2]}, expected {wanted}"
            )
        size = batch.shape[2]
        for channels in np.array_split(
            batch.reshape(-1, size, size),
            max(1, batch.size * INTERPOLATION**2 // PLANE_VALUES),
        ):
            half = half + _half_plane((channels - norm.mean) / norm.std)
            planes += len(channels)
        num += len(batch)
        progress(num)
    if not num:
        raise UserError(f"spectra: {name} gave no pictures, expected at least one")
    return Spectrum(name, _whole_plane(half / planes), size, num)


def _half_plane(x: np.ndarray) -> np.ndarray:
    """Sum of the power spectra of `[N, size, size]`, without the half that mirrors the other."""
    size = x.shape[1]
    window = np.kaiser(size, BETA)
    window = window / np.sqrt(np.square(window).sum())
    wide = size * INTERPOLATION
    found = scipy.fft.rfft2(x * np.outer(window, window), s=[wide, wide])
    return (found.real**2 + found.imag**2).sum(0)


def _whole_plane(half: np.ndarray) -> np.ndarray:
    """`[n, n // 2 + 1]` → `[n, n]`: power is the same at opposite frequencies."""
    mirrored = half[:, 1:-1]
    mirrored = np.roll(mirrored[::-1, ::-1], 1, axis=0)
    return np.concatenate([half, mirrored], axis=1)


def difference_db(a: Spectrum, b: Spectrum) -> float:
    """Mean absolute difference in decibels, over frequencies up to half the sampling rate, after
    the smoothing of the heat maps. Raises UserError for different sizes."""
    if a.size != b.size:
        raise UserError(f"spectra: {a.name} has {a.size} pixels, {b.name} {b.size}; expected one")
    return float(np.abs(_smooth(a) - _smooth(b)).mean())


def _smooth(spectrum: Spectrum) -> np.ndarray:
    return gaussian_filter(spectrum.centred_db(), SMOOTHING * INTERPOLATION, mode="nearest")


def heat_map(spectrum: Spectrum, longest_px: int = 512) -> np.ndarray:
    """uint8 `[n, n, 3]`: −40 dB dark to 20 dB bright in steps of 5 dB, zero in the middle."""
    db = _smooth(spectrum)
    step = max(1, len(db) // longest_px)
    low, high = HEAT_DB
    level = np.floor((np.clip(db[::step, ::step], low, high - 1e-9) - low) / HEAT_STEP_DB)
    return viridis(level / ((high - low) / HEAT_STEP_DB - 1))


def chart(spectra: list[Spectrum], norm: Normalisation) -> Drawing:
    """Heat maps in a row with their scale, and below them all slices at 0° and at 45°."""
    if len({spectrum.size for spectrum in spectra}) != 1:
        sizes = ", ".join(f"{s.name} {s.size}" for s in spectra)
        raise UserError(f"spectra: expected pictures of one size, got {sizes}")
    margin, gap = 50, 30
    width = margin + max(len(spectra) * (HEAT_PX + gap) + 70, 2 * (CHART_PX + gap) + 170)
    drawing = Drawing(width, 34 + HEAT_PX + 80 + CHART_PX * 0.75 + 66)
    size = spectra[0].size
    for i, spectrum in enumerate(spectra):
        left = margin + i * (HEAT_PX + gap)
        drawing.image(left, 34, HEAT_PX, HEAT_PX, heat_map(spectrum))
        limits = (-size / 2, size / 2)
        axes = Axes(drawing, left, 34, HEAT_PX, HEAT_PX, limits, limits)
        title = f"{spectrum.name} ({spectrum.num:,})"
        axes.frame(title[:38], [-size / 2, 0, size / 2], [-size / 2, 0, size / 2] if not i else [])
    _scale(drawing, margin + len(spectra) * (HEAT_PX + gap), 34)
    top, height = 34 + HEAT_PX + 60, CHART_PX * 0.75
    for column, angle in enumerate((0, 45)):
        end = size / 2 if angle == 0 else size / 2**0.5
        left = margin + column * (CHART_PX + gap + 10)
        axes = Axes(drawing, left, top, CHART_PX, height, (0, end), SLICE_DB)
        ticks = [round(end * k / 4, 1) for k in range(5)]
        axes.frame(f"slice at {angle}°, dB", ticks, range(-50, 31, 10))
        for i, spectrum in enumerate(spectra):
            axes.plot(*spectrum.slices()[angle], COLOURS[i % len(COLOURS)])
    for i, spectrum in enumerate(spectra):
        x, y = margin + 2 * (CHART_PX + gap) + 6, top + 10 + 18 * i
        drawing.line([(x, y), (x + 18, y)], COLOURS[i % len(COLOURS)], 2)
        drawing.text(x + 24, y, spectrum.name[:24])
    drawing.text(
        margin,
        top + height + 36,
        f"cycles per image; pictures less {norm.mean:.3f}, over {norm.std:.3f} (bytes, of "
        f"{norm.source})",
        colour="#555555",
    )
    return drawing


def _scale(drawing: Drawing, left: float, top: float) -> None:
    """The colours of the heat maps."""
    low, high = HEAT_DB
    count = int((high - low) / HEAT_STEP_DB)
    column = viridis(np.arange(count)[::-1, None] / (count - 1))
    drawing.image(left, top, 14, HEAT_PX, column)
    for db in range(int(low), int(high) + 1, 20):
        y = top + (high - db) / (high - low) * HEAT_PX
        drawing.text(left + 20, y, f"{db} dB", colour="#555555")
