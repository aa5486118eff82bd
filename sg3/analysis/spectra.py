"""Average power spectra of images, and charts of them (SG3 App. A; REFERENCE.md §6.4).

All sources of a chart are normalized by one mean and one standard deviation, in bytes: those of
all pixels of the first source, so that levels can be compared. Each image is multiplied by a
symmetric Kaiser window (beta 8, mean power 1) and zero-padded to four times its size; the squared
magnitudes of its Fourier transform are averaged over images and channels. White noise of variance
1 gives 0 dB at every frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.fft
import torch
from scipy.ndimage import gaussian_filter

from sg3.analysis import charts
from sg3.analysis.colours import viridis
from sg3.errors import UserError
from sg3.files import atomic_path
from sg3.metrics.sampling import images_per_pass, to_bytes
from sg3.networks.generator import MappedGenerator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

BETA = 8  # of the Kaiser window
INTERPOLATION = 4  # padded size over image size
SMOOTHING = 1.25  # standard deviation of the heat maps' blur, in cycles per image
HEAT_DB = (-40.0, 20.0)  # color range of heat maps
HEAT_STEP_DB = 5.0
SLICE_DB = (-50.0, 30.0)  # y range of slices
PLANE_VALUES = 1 << 22  # numbers in the padded channels that are transformed together


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation in bytes, and the name of the source they were computed from."""

    mean: float
    std: float
    source: str = "given"


@dataclass(frozen=True)
class Spectrum:
    """Average power of `num` images of `size`×`size` pixels.

    `power` is float64 `[4·size, 4·size]` with frequency zero first, as FFTs have it.
    """

    name: str
    power: np.ndarray
    size: int
    num: int

    def centred_db(self) -> np.ndarray:
        """Return decibels `[4·size + 1, 4·size + 1]`, from −size/2 to size/2 cycles per image.

        Frequency zero is in the middle; the last row and column repeat the first.
        """
        power = np.fft.fftshift(self.power)
        power = np.pad(power, [(0, 1), (0, 1)], mode="wrap")
        # A power of 0 would become minus infinity.
        return 10 * np.log10(np.maximum(power, 1e-12))

    def slices(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Return (cycles per image, decibels) from the center along 0° and 45°, by angle."""
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
    G: MappedGenerator, num: int, seed: int = 0, truncation_psi: float = 1
) -> Iterator[torch.Tensor]:
    """Yield `num` images as uint8 `[B, C, H, W]`, with constant noise.

    Image i is drawn from the random numbers of `seed` + i: z first, then the class, if any.
    """
    device, batch = next(G.parameters()).device, images_per_pass(G.img_height, G.img_width)
    for start in range(0, num, batch):
        latents, labels = [], []
        for i in range(start, min(start + batch, num)):
            # RandomState takes 32 bits.
            random = np.random.RandomState((seed + i) % 2**32)
            latents.append(random.randn(G.z_dim))
            labels.append(np.eye(G.c_dim)[random.randint(G.c_dim)] if G.c_dim else [])
        z, c = (
            torch.from_numpy(np.array(part, np.float32)).to(device) for part in (latents, labels)
        )
        yield to_bytes(G(z, c, truncation_psi=truncation_psi, noise_mode="const"))


def mean_and_std(batches: Iterable[torch.Tensor], source: str = "given") -> Normalization:
    """Return mean and standard deviation over all pixels and channels of uint8 `[B, C, H, W]`.

    Raises ValueError if there are no images.
    """
    count, total, squares = 0, 0, 0
    for batch in batches:
        # Sums of integers are exact, however the images are split into batches.
        values = batch.to("cpu", torch.int64)
        count += values.numel()
        total, squares = total + int(values.sum()), squares + int(values.square().sum())
    if not count:
        raise UserError("batches: got no images, expected at least one")
    mean = total / count
    return Normalization(mean, (squares / count - mean**2) ** 0.5, source)


def average_spectrum(
    name: str,
    batches: Iterable[torch.Tensor],
    norm: Normalization,
    progress: Callable[[int], None] = lambda done: None,
) -> Spectrum:
    """Return the average power spectrum of square images.

    Args:
        name: name of the source, shown in charts.
        batches: uint8 `[B, C, size, size]`; few channels are in memory as floats at a time.
        norm: mean and standard deviation by which pixels are normalized.
        progress: called with the number of images so far after each batch.

    Raises ValueError if images are not square or differ in size, if there are none, and if the
    standard deviation is 0.
    """
    if not norm.std > 0:
        raise UserError(f"std: got {norm.std}, expected a positive number of bytes")
    size, num, planes = 0, 0, 0
    total = np.zeros([])
    for batch in batches:
        images = batch.cpu().numpy()
        if images.shape[2] != images.shape[3] or size not in (0, images.shape[2]):
            wanted = f"{size}x{size}" if size else "square ones"
            raise UserError(
                f"{name}: got images of {images.shape[3]}x{images.shape[2]}, expected {wanted}"
            )
        size = images.shape[2]
        for channels in np.array_split(
            images.reshape(-1, size, size),
            max(1, images.size * INTERPOLATION**2 // PLANE_VALUES),
        ):
            total = total + _half_plane((channels - norm.mean) / norm.std)
            planes += len(channels)
        num += len(images)
        progress(num)
    if not num:
        raise UserError(f"{name}: got no images, expected at least one")
    return Spectrum(name, _whole_plane(total / planes), size, num)


def _half_plane(x: np.ndarray) -> np.ndarray:
    """Return the summed power spectra of `x` `[N, size, size]`: `[4·size, 2·size + 1]`.

    Images are real, so the other half of the plane mirrors this one.
    """
    size = x.shape[1]
    window = np.kaiser(size, BETA)
    # Squares that add up to 1 put white noise of variance 1 at 0 dB (§6.4).
    window = window / np.sqrt(np.square(window).sum())
    wide = size * INTERPOLATION
    found = scipy.fft.rfft2(x * np.outer(window, window), s=[wide, wide])
    return (found.real**2 + found.imag**2).sum(0)


def _whole_plane(half: np.ndarray) -> np.ndarray:
    """Return `[n, n]` from `[n, n // 2 + 1]`: power is the same at opposite frequencies."""
    # Columns of frequency zero and of the highest frequency have no counterpart to add.
    mirrored = half[:, 1:-1]
    # Reversing puts the row of frequency zero last; roll it back to the front.
    mirrored = np.roll(mirrored[::-1, ::-1], 1, axis=0)
    return np.concatenate([half, mirrored], axis=1)


def difference_db(a: Spectrum, b: Spectrum) -> float:
    """Return the mean absolute difference in decibels over all frequencies, both smoothed as in
    heat maps. Raises ValueError if image sizes differ."""
    if a.size != b.size:
        raise UserError(
            f"spectra: got images of {a.size} pixels ({a.name}) and {b.size} ({b.name}), expected "
            "one size"
        )
    return float(np.abs(_smooth(a) - _smooth(b)).mean())


def _smooth(spectrum: Spectrum) -> np.ndarray:
    return gaussian_filter(spectrum.centred_db(), SMOOTHING * INTERPOLATION, mode="nearest")


def heat_map(spectrum: Spectrum, longest_px: int = 512) -> np.ndarray:
    """Return uint8 `[n, n, 3]` with frequency zero in the middle: −40 dB dark to 20 dB bright, in
    steps of 5 dB."""
    db = _smooth(spectrum)
    step = max(1, len(db) // longest_px)
    low, high = HEAT_DB
    # The upper limit itself belongs to the last step, not to one beyond it.
    level = np.floor((np.clip(db[::step, ::step], low, high - 1e-9) - low) / HEAT_STEP_DB)
    return viridis(level / ((high - low) / HEAT_STEP_DB - 1))


def chart(spectra: list[Spectrum], norm: Normalization) -> Figure:
    """Return a figure: heat maps in a row, and below them the slices at 0° and 45° of all spectra.

    Raises ValueError if image sizes differ.
    """
    if len({spectrum.size for spectrum in spectra}) != 1:
        sizes = ", ".join(f"{s.name} {s.size}" for s in spectra)
        raise UserError(f"spectra: expected images of one size, got {sizes}")
    figure = charts.new_figure(max(8, 2.4 * len(spectra) + 1.2), 6)
    rows: Any = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    _heat_maps(rows[0], spectra)
    _slices(rows[1], spectra)
    figure.supxlabel(
        f"pixels normalized by mean {norm.mean:.3f} and standard deviation {norm.std:.3f} bytes "
        f"({norm.source})",
        fontsize=charts.FONT_SIZE - 1,
        color=charts.LABEL,
        parse_math=False,
    )
    return figure


def _heat_maps(area: SubFigure, spectra: list[Spectrum]) -> None:
    """Draw the spectra's heat maps side by side, with one color bar."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    columns = area.add_gridspec(1, max(3, len(spectra)))  # one or two maps keep to the left
    row: list[Axes] = [area.add_subplot(columns[i]) for i in range(len(spectra))]
    half = spectra[0].size / 2
    for axes, spectrum in zip(row, spectra, strict=True):
        charts.style_axes(axes, f"{spectrum.name} ({spectrum.num:,})"[:38])
        axes.grid(False)
        axes.imshow(heat_map(spectrum), extent=(-half, half, -half, half), interpolation="none")
        axes.set(xticks=[-half, 0, half], yticks=[-half, 0, half] if axes is row[0] else [])
    row[0].set_ylabel("cycles per image", fontsize=charts.FONT_SIZE - 1, color=charts.LABEL)
    levels = np.arange(HEAT_DB[0], HEAT_DB[1] + 1, HEAT_STEP_DB)
    colors = viridis(np.linspace(0, 1, len(levels) - 1)) / 255
    scale = ScalarMappable(BoundaryNorm(levels, len(colors)), ListedColormap(colors))
    bar = area.colorbar(scale, ax=row, ticks=levels[::4], aspect=18, pad=0.02)
    bar.set_label("dB", fontsize=charts.FONT_SIZE - 1, color=charts.LABEL)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=charts.FONT_SIZE - 1, labelcolor=charts.LABEL, length=0)


def _slices(area: SubFigure, spectra: list[Spectrum]) -> None:
    """Draw the slices of all spectra at 0° and at 45°, with one legend."""
    for axes, angle in zip(area.subplots(1, 2, sharey=True), (0, 45), strict=True):
        charts.style_axes(axes, f"slice at {angle}°", "cycles per image", "" if angle else "dB")
        for i, spectrum in enumerate(spectra):
            frequency, db = spectrum.slices()[angle]
            color = charts.COLORS[i % len(charts.COLORS)]
            axes.plot(frequency, db, color=color, linewidth=1.2, label=spectrum.name[:38])
        axes.set(xlim=(0, frequency[-1]), ylim=SLICE_DB)
    charts.add_legend(axes, loc="upper right")
