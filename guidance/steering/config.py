"""Settings of steering."""

from __future__ import annotations

import math
from dataclasses import dataclass

from guidance.cutouts import AUGMENTS, Augment
from guidance.steering.learning_rate import SCHEDULES
from guidance.steering.losses import DISTANCES
from guidance.templates import templates_of

#: Choices of the settings that are words.
CHOICES = {
    "space": ("w", "w+", "s"),
    "basis": ("pca", "std"),
    "transform": ("follow", "free", "held"),
    "start": ("best", "seed", "mean"),
    "distance": (*DISTANCES, "directional"),
    "schedule": tuple(SCHEDULES),
}
LEAST = {
    "steps": 0, "components": 1, "candidates": 1, "cutouts": 1, "generations": 0, "patience": 0,
}  # fmt: skip
NOT_NEGATIVE = ("lr", "prior", "keep", "max_sigma", "look", "identity", "outside", "stall")


@dataclass(frozen=True)
class SteerConfig:
    """Settings of `steer`. Raises ValueError for values outside the stated ranges."""

    steps: int = 60
    seed: int = 0
    #: "w": one latent for all layers; "w+": one per layer, freer and further from the manifold;
    #: "s": every channel of every layer but those that make colour (StyleSpace).
    space: str = "w"
    #: Of w and w+. "pca": principal components of W; "std": every number of w (REFERENCE.md §8.1).
    basis: str = "pca"
    components: int = 48
    #: The four numbers of a StyleGAN3's learned input transform: "follow" w as they always do, are
    #: "free" to move beside it, or "held" where they are at the start.
    transform: str = "follow"
    #: Only these layers move: rows of ws "4-9" or names "L3-L6"; None for all.
    layers: str | None = None
    #: Where to begin: the best of `candidates` random pictures, the seed's own, or the mean of W.
    start: str = "best"
    #: None for 128 of pictures up to 64 pixels wide, else 32.
    candidates: int | None = None
    #: Times the best candidates are crossed; None for 4 of pictures up to 64 pixels wide, else 0.
    generations: int | None = None
    #: Truncation psi of the starting pictures.
    truncation: float = 1.0
    lr: float = 0.1
    #: Of the learning rate: "ramp" (short rise, fall over the last quarter), "cosine", "constant".
    schedule: str = "ramp"
    betas: tuple[float, float] = (0.0, 0.999)
    #: Share of the old in the moving average of latents that is shown and returned.
    ema: float = 0.9
    #: Stop once the averaged loss has not fallen by `stall` for so many steps; 0: never.
    patience: int = 0
    stall: float = 1e-3
    #: Pull towards the mean of W: this times the mean squared whitened coordinate.
    prior: float = 0.0
    #: Pull towards the start: this times the mean squared change of the coordinates. What the text
    #: does not mention stays as it was. None for 1 from the best candidate, which is near what the
    #: text says, and 0.1 from any other start, which has to move.
    keep: float | None = None
    #: Pull towards how the start looks: this times LPIPS or its stand-in (`look_distance` is what
    #: `guidance.inversion.load_distance` takes).
    look: float = 0.0
    look_distance: str = "auto"
    #: Pull towards who the start shows, by `identity_encoder`: see `guidance.steering.keep`.
    identity: float = 0.0
    identity_encoder: str | None = None
    #: Where a region is judged, pull of the pixels outside towards the start; None for 30.
    outside: float | None = None
    #: No further from the mean than this, in standard deviations of W; 0 for no bound.
    max_sigma: float = 1.25
    #: Views per picture and step; None for 32 of pictures larger than the encoder's input, else 2.
    cutouts: int | None = None
    #: A name in `guidance.cutouts.AUGMENTS`, or the ranges themselves.
    augment: str | Augment = "light"
    #: Between embeddings; "directional" compares changes since `source` (REFERENCE.md §8.6).
    distance: str = "spherical"
    #: Of "directional": a text that says what texts start from.
    source: str | None = None
    #: A name in `guidance.templates.TEMPLATES`, or sentences with {}: texts are averaged over them.
    templates: str | tuple[str, ...] = "plain"
    class_index: int | None = None
    force_fp32: bool = False

    def __post_init__(self):
        for name, expected in CHOICES.items():
            if getattr(self, name) not in expected:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected {' or '.join(expected)}"
                )
        if not (isinstance(self.augment, Augment) or self.augment in AUGMENTS):
            names = " or ".join(AUGMENTS)
            raise ValueError(f"augment: got {self.augment!r}, expected {names} or an Augment")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: got {value}, expected at least {least}")
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: got {value}, expected a number ≥ 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: got {self.ema}, expected 0 ≤ ema < 1")
        if self.distance == "directional" and self.source is not None and not self.source.strip():
            raise ValueError("source: got an empty text, expected one such as 'a face'")
        if self.identity and not self.identity_encoder:
            raise ValueError(
                "identity: needs a face encoder; name a TorchScript file or an encoder as "
                "identity_encoder (--identity-encoder)"
            )
        templates_of(self.templates)

    @property
    def views(self) -> Augment:
        """The ranges of the random views."""
        return AUGMENTS[self.augment] if isinstance(self.augment, str) else self.augment
