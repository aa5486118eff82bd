"""Detect grid artefacts: power of images near the Nyquist frequency, before and after."""

from __future__ import annotations

from dataclasses import dataclass

import torch

KAISER_BETA = 8.0
#: Visibility threshold: root mean square in a band of images in [−1, 1], a little more than one of
#: 255 levels. Near Nyquist there is almost no power, so a ratio alone would report noise.
VISIBLE = 0.01
#: Limits of the bands in cycles per pixel: top octave, near Nyquist, near an axis.
OCTAVE, NEAR, AXIS = 1 / 4, 7 / 16, 1 / 16
#: Growth that is reported as a possible grid.
GRID_DB = 3.0


@dataclass(frozen=True)
class SpectralChange:
    """Growth of the mean power spectrum in three bands, in dB above the visibility threshold.

    Attributes:
        top_octave: Frequencies above 1/4 cycle per pixel along either axis.
        axes: Near Nyquist along one axis and low along the other (fine lines).
        diagonal: Near Nyquist along both axes (a checkerboard).
    """

    top_octave: float
    axes: float
    diagonal: float

    @property
    def advice(self) -> str | None:
        """What to do about a possible grid, in one line; None if there is none."""
        growth = max(self.top_octave, self.axes, self.diagonal)
        if growth <= GRID_DB:
            return None
        return (
            f"fine detail grew by {growth:.1f} dB: check sheet.png for a grid; "
            "--layers equivariant, --views, a larger --batch or a lower --lr reduce it"
        )


def power_spectrum(images: torch.Tensor) -> torch.Tensor:
    """Mean power `[H, W]` of `images` `[N, C, H, W]` in [−1, 1], in the order of `fftfreq`.

    Kaiser windows whose squares sum to 1, as in SG3 App. A (REFERENCE.md §6.4), so white noise of
    variance v has power v everywhere. Images are clamped, and their means subtracted.
    """
    windows = []
    for length in images.shape[2:]:
        window = torch.kaiser_window(length, periodic=False, beta=KAISER_BETA, dtype=torch.float64)
        windows.append(window / window.square().sum().sqrt())
    weights = torch.outer(*windows)
    total = torch.zeros_like(weights)
    for image in images.cpu():  # one by one: sixteen large images in float64 take 2 GB
        # Nothing beyond [−1, 1] is visible.
        image = image.double().clamp(-1, 1)
        image = image - image.mean(dim=(1, 2), keepdim=True)
        total += torch.fft.fft2(image * weights).abs().square().mean(dim=0)
    return total / len(images)


def spectral_change(before: torch.Tensor, after: torch.Tensor) -> SpectralChange:
    """Compare the spectra of images `before` and `after`, `[N, C, H, W]` of the same size."""
    y, x = (torch.fft.fftfreq(length).abs() for length in before.shape[2:])
    y, x = y[:, None], x[None, :]
    bands = {
        "top_octave": torch.maximum(y, x) >= OCTAVE,
        "axes": ((y >= NEAR) & (x <= AXIS)) | ((x >= NEAR) & (y <= AXIS)),
        "diagonal": (y >= NEAR) & (x >= NEAR),
    }
    spectra = [power_spectrum(images) for images in (before, after)]

    def growth(band: torch.Tensor) -> float:
        # By Parseval the mean over all frequencies is the variance of the pixels, so this is the
        # variance within the band.
        old, new = (s[band].sum() / s.numel() + VISIBLE**2 for s in spectra)
        return float(10 * (new / old).log10())

    return SpectralChange(**{name: growth(band) for name, band in bands.items()})
