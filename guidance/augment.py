"""Ranges of the random augmentation of views (`guidance.cutouts` applies them)."""

from __future__ import annotations

from dataclasses import dataclass

from sg3.settings import check_settings, documented, setting


@documented
@dataclass(frozen=True)
class Augment:
    """Ranges of random changes; each value is the largest change to either side.

    Raises ValueError for values out of range.
    """

    shift: float = setting(0.0, "Translation, as a fraction of the image size.", min=0, max=1)
    scale: float = setting(0.0, "Relative change of size.", min=0, max=1)
    rotate_deg: float = setting(0.0, "Rotation in degrees.", min=0, max=180)
    brightness: float = setting(0.0, "Offset of all pixels, in [−1, 1].", min=0, max=1)
    contrast: float = setting(0.0, "Relative change of contrast.", min=0, max=1)
    noise: float = setting(
        0.0, "Standard deviation of Gaussian noise on views in [−1, 1].", min=0, max=1
    )
    perspective: float = setting(
        0.0, "Strength of a random perspective warp, 0 to 0.5.", min=0, max=0.5
    )
    flip: float = setting(0.0, "Probability of a horizontal flip.", min=0, max=1)
    hue: float = setting(0.0, "Hue rotation in degrees.", min=0, max=180)
    saturation: float = setting(0.0, "Relative change of saturation.", min=0, max=1)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def is_geometric(self) -> bool:
        """Whether any geometric change is on."""
        return any((self.shift, self.scale, self.rotate_deg, self.perspective, self.flip))


AUGMENTS = {
    "none": Augment(),
    "light": Augment(0.04, 0.05, 5.0, 0.05, 0.1, 0.02),
    "strong": Augment(0.08, 0.12, 12.0, 0.15, 0.25, 0.06),
}
