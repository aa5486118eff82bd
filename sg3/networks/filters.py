"""Low-pass filters with Kaiser windows, separable and radially symmetric (REFERENCE.md §2.3)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import i0, j1


def kaiser_beta(num_taps: int, relative_width: float) -> float:
    """β of the window that attenuates as much as `num_taps` allow.

    `relative_width` is the transition band over half the sampling rate (Kaiser's formulas).
    """
    attenuation_db = 2.285 * (num_taps - 1) * np.pi * relative_width + 7.95
    if attenuation_db > 50:
        return 0.1102 * (attenuation_db - 8.7)
    if attenuation_db > 21:
        return 0.5842 * (attenuation_db - 21) ** 0.4 + 0.07886 * (attenuation_db - 21)
    return 0.0


def kaiser_window(num_taps: int, beta: float) -> np.ndarray:
    """Kaiser window `[num_taps]`, float64, 1 in the middle."""
    position = np.linspace(-1, 1, num_taps)
    return i0(beta * np.sqrt(np.clip(1 - position**2, 0, None))) / i0(beta)


def design_lowpass_filter(
    numtaps: int, cutoff: float, width: float, fs: float, radial: bool = False
) -> torch.Tensor | None:
    """Low-pass filter with sum 1: float32 `[numtaps]`, or `[numtaps, numtaps]` if `radial`.

    `cutoff`, the full transition `width` and the sampling rate `fs` share one unit. One tap
    means no filter: None. Radial filters (jinc, StyleGAN3 App. C.1) need an even `numtaps`.
    """
    if numtaps < 1:
        raise ValueError(f"numtaps: got {numtaps}, expected at least 1")
    if numtaps == 1:
        return None
    window = kaiser_window(numtaps, kaiser_beta(numtaps, width / (fs / 2)))
    time = (np.arange(numtaps) - (numtaps - 1) / 2) / fs
    if not radial:
        taps = np.sinc(2 * cutoff * time) * window
        return torch.as_tensor(taps / taps.sum(), dtype=torch.float32)
    if numtaps % 2:
        raise ValueError(f"numtaps: got {numtaps}, expected an even number for a radial filter")
    radius = np.hypot(*np.meshgrid(time, time))
    taps = j1(2 * np.pi * cutoff * radius) / (np.pi * radius) * np.outer(window, window)
    return torch.as_tensor(taps / taps.sum(), dtype=torch.float32)
