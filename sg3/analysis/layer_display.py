"""How activations are displayed. Importing this module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from sg3.settings import check_settings, documented, setting

DOMAINS = ("space", "spectrum")


@documented
@dataclass(frozen=True)
class LayerDisplay:
    """How activations become images. Defaults other than `normalize` are the official viewer's.

    In space, a channel is divided by its largest magnitude if `normalize` (channels of images never
    are), then scaled by `gain_db`. A spectrum is the power of all channels after removing the mean
    and applying a Kaiser window, in decibels relative to its mean.
    """

    domain: str = setting("space", "Show values or power spectra.", choices=DOMAINS)
    normalize: bool = setting(True, "Divide each channel by its largest magnitude.")
    gain_db: float = setting(0, "Gain of values, in decibels.")
    range_db: float = setting(
        50, "Range of spectra: ± this many decibels around the mean.", above=0
    )
    beta: float = setting(8, "Beta of the Kaiser window of spectra.", min=0)

    def __post_init__(self) -> None:
        check_settings(self)
