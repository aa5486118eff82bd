"""Has an adaptation left a grid on its pictures? Power near the Nyquist frequency tells."""

from __future__ import annotations

from dataclasses import dataclass

import torch

KAISER_BETA = 8.0
#: Root mean square in a band, of pictures in [−1, 1], below which nobody sees anything: a little
#: more than one of 255 levels. Near Nyquist there is next to nothing, whose growth means nothing.
VISIBLE = 0.01
#: In cycles per pixel: where the top octave begins, what is near Nyquist, what is near an axis.
OCTAVE, NEAR, AXIS = 1 / 4, 7 / 16, 1 / 16
GRID_DB = 3.0


@dataclass(frozen=True)
class SpectralChange:
    """Growth of what is in a band of the mean spectrum of pictures, in dB above the visible.

    `top_octave`: all frequencies above a quarter cycle per pixel along either axis; `axes`: near
    Nyquist along one axis and low along the other (fine lines); `diagonal`: near Nyquist along
    both (a checkerboard).
    """

    top_octave: float
    axes: float
    diagonal: float

    @property
    def advice(self) -> str | None:
        """A line for the user if there may be a grid, else None."""
        most = max(self.top_octave, self.axes, self.diagonal)
        if most <= GRID_DB:
            return None
        return (
            f"fine detail grew by {most:.1f} dB: look for a grid in sheet.png; "
            "--layers equivariant, --views, a larger --batch and a lower --lr work against it"
        )


def power_spectrum(images: torch.Tensor) -> torch.Tensor:
    """Mean power `[H, W]` of `images` `[N, C, H, W]` in [−1, 1], in the order of `fftfreq`.

    Kaiser windows whose squares add up to 1, as in SG3 App. A (REFERENCE.md §6.4): white noise of variance
    v has power v everywhere. Means are taken away, and what no picture shows is clamped.
    """
    windows = []
    for length in images.shape[2:]:
        window = torch.kaiser_window(length, periodic=False, beta=KAISER_BETA, dtype=torch.float64)
        windows.append(window / window.square().sum().sqrt())
    weights = torch.outer(*windows)
    total = torch.zeros_like(weights)
    for image in images.cpu():  # one by one: sixteen large ones in double precision are 2 GB
        image = image.double().clamp(-1, 1)
        image = image - image.mean(dim=(1, 2), keepdim=True)
        total += torch.fft.fft2(image * weights).abs().square().mean(dim=0)
    return total / len(images)


def spectral_change(before: torch.Tensor, after: torch.Tensor) -> SpectralChange:
    """From pictures `before` to `after`, `[N, C, H, W]` each, of one size."""
    y, x = (torch.fft.fftfreq(length).abs() for length in before.shape[2:])
    y, x = y[:, None], x[None, :]
    bands = {
        "top_octave": torch.maximum(y, x) >= OCTAVE,
        "axes": ((y >= NEAR) & (x <= AXIS)) | ((x >= NEAR) & (y <= AXIS)),
        "diagonal": (y >= NEAR) & (x >= NEAR),
    }
    spectra = [power_spectrum(images) for images in (before, after)]

    def growth(band: torch.Tensor) -> float:
        # The mean over all frequencies is the variance of pixels: a band's share of it.
        old, new = (s[band].sum() / s.numel() + VISIBLE**2 for s in spectra)
        return float(10 * (new / old).log10())

    return SpectralChange(**{name: growth(band) for name, band in bands.items()})
