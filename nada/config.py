"""Settings of an adaptation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from guidance.encoders import Encoder, is_mini
from guidance.templates import templates_of
from nada.objective import ViewConfig, Weights
from nada.stop_rule import StopRule

#: The published code scales Adam as lazy regularisation once asked for (REFERENCE.md §8.6).
LR_SCALE, PUBLISHED_BETAS = 4 / 5, (0.0, 0.99 ** (4 / 5))


@dataclass(frozen=True)
class AdaptConfig:
    """Settings of `adapt`. Raises ValueError for values outside the stated ranges."""

    steps: int = 300
    batch: int = 4
    lr: float = 0.002
    betas: tuple[float, float] = PUBLISHED_BETAS
    #: The coarsest layer's learning rate relative to the finest, falling geometrically between:
    #: shapes have further to go than colours.
    coarse_lr: float = 1.0
    #: The learning rate rises over so many steps of each stage, and falls as a cosine over this
    #: share of the steps at the end.
    warmup: int = 0
    decay: float = 0.0
    seed: int = 0
    #: Psi of the latents of training.
    truncation: float = 0.7
    #: What `nada.layers.chosen_units` takes, or "auto" for `auto_k` layers chosen as training goes;
    #: or stages of these with their share of the steps, like "coarse:0.6 then all".
    layers: str = "paper"
    auto_k: int = 4
    #: Choose anew every so many steps, each time from so many latents and moves of them.
    auto_every: int = 10
    auto_batch: int = 8
    auto_moves: int = 1
    #: Share of the old in the average of the weights, which is the result.
    ema: float = 0.98
    #: A name in `guidance.templates.TEMPLATES` or sentences with {}; None: "mini" for the bundled
    #: encoders, which know few words, else "imagenet".
    templates: str | tuple[str, ...] | None = None
    #: How far features should move, in units of the difference of the texts' embeddings: for the
    #: magnitude term and the stop. None: unknown.
    magnitude: float | None = None
    weights: Weights = field(default_factory=Weights)
    views: ViewConfig = field(default_factory=ViewConfig)
    stop: StopRule | None = field(default_factory=StopRule)
    #: Steps between two checks of the stop rule, on so many latents.
    check_every: int = 10
    check_batch: int = 16
    #: Noise on the source's pictures, as published.
    source_noise: float = 5e-4
    class_index: int | None = None
    force_fp32: bool = True

    def __post_init__(self):
        least = {"steps": 0, "batch": 1, "auto_k": 1, "auto_every": 1, "auto_batch": 1}
        least |= {"auto_moves": 1, "check_every": 1, "check_batch": 2}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {value}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: got {self.lr}, expected a number above 0")
        if not (math.isfinite(self.coarse_lr) and self.coarse_lr > 0):
            raise ValueError(f"coarse_lr: got {self.coarse_lr}, expected a factor above 0")
        if self.warmup < 0:
            raise ValueError(f"warmup: got {self.warmup}, expected 0 or more steps")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay: got {self.decay}, expected a share of the steps, 0 to 1")
        if not math.isfinite(self.truncation):
            raise ValueError(f"truncation: got {self.truncation}, expected a number")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: got {self.ema}, expected 0 ≤ ema < 1")
        if self.magnitude is not None and not self.magnitude > 0:
            raise ValueError(f"magnitude: got {self.magnitude}, expected a number above 0")
        if self.weights.magnitude and self.magnitude is None:
            raise ValueError("weights: the magnitude term needs magnitude=, a length to keep to")
        if self.templates is not None:
            templates_of(self.templates)


#: As published: pictures as they are, the direction alone.
PUBLISHED = AdaptConfig(views=ViewConfig(views=0))
#: Found for the bundled encoders (docs/LOG.md): how far true pairs are apart, and a way there.
MINI = AdaptConfig(
    steps=400,
    lr=0.008,
    betas=(0.9, 0.99),
    coarse_lr=6.0,
    warmup=60,
    decay=0.5,
    truncation=1.0,
    layers="all",
    magnitude=0.95,
    weights=Weights(directional=1, magnitude=2, range=4),
    views=ViewConfig(views=1),
)


def usual_config(clip: str | Encoder) -> AdaptConfig:
    """What is best known for the encoder `clip`, as `guidance.encoders.load_encoder` takes it."""
    return MINI if is_mini(clip) else PUBLISHED
