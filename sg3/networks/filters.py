"""Kaiser-windowed low-pass filters, separable and radially symmetric (REFERENCE.md §2.3)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import i0, j1


def kaiser_beta(num_taps: int, relative_width: float) -> float:
    """Return Kaiser's β for the maximum attenuation with `num_taps` taps.

    `relative_width` is the transition band as a fraction of half the sampling rate.
    """
    attenuation_db = 2.285 * (num_taps - 1) * np.pi * relative_width + 7.95
    if attenuation_db > 50:
        return 0.1102 * (attenuation_db - 8.7)
    if attenuation_db > 21:
        return 0.5842 * (attenuation_db - 21) ** 0.4 + 0.07886 * (attenuation_db - 21)
    return 0.0


def kaiser_window(num_taps: int, beta: float) -> np.ndarray:
    """Return the Kaiser window `[num_taps]`, float64, with maximum 1."""
    position = np.linspace(-1, 1, num_taps)
    # Rounding must not leave a negative number under the root.
    return i0(beta * np.sqrt(np.clip(1 - position**2, 0, None))) / i0(beta)


def design_lowpass_filter(
    numtaps: int, cutoff: float, width: float, fs: float, radial: bool = False
) -> torch.Tensor | None:
    """Design a low-pass filter with sum 1.

    Args:
        numtaps: number of taps; 1 means no filter.
        cutoff: cutoff frequency, in the unit of `fs`.
        width: full width of the transition band, in the unit of `fs`.
        fs: sampling rate.
        radial: radially symmetric (jinc, SG3 App. C.1) instead of separable; needs even `numtaps`.

    Returns:
        float32 `[numtaps]`, `[numtaps, numtaps]` if radial, or None for one tap.

    Raises:
        ValueError: `numtaps` is below 1, or odd for a radial filter.
    """
    if numtaps < 1:
        raise ValueError(f"numtaps: got {numtaps}, expected at least 1")
    if numtaps == 1:
        return None
    window = kaiser_window(numtaps, kaiser_beta(numtaps, width / (fs / 2)))
    time = (np.arange(numtaps) - (numtaps - 1) / 2) / fs
    if not radial:
        # Designed in float64 and cast once, at the end (REFERENCE.md, Notation).
        taps = np.sinc(2 * cutoff * time) * window
        return torch.as_tensor(taps / taps.sum(), dtype=torch.float32)
    if numtaps % 2:
        raise ValueError(f"numtaps: got {numtaps}, expected an even number for a radial filter")
    # With an even number of taps no tap lies at the centre, where jinc would be 0/0.
    radius = np.hypot(*np.meshgrid(time, time))
    taps = j1(2 * np.pi * cutoff * radius) / (np.pi * radius) * np.outer(window, window)
    return torch.as_tensor(taps / taps.sum(), dtype=torch.float32)
