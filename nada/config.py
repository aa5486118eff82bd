"""Configuration of an adaptation. Importing this module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from guidance.augment import AUGMENTS
from guidance.templates import templates_of
from sg3.errors import UserError
from sg3.settings import ClassLabel, check_settings, documented, setting

if TYPE_CHECKING:
    from guidance.encoders import Encoder

#: The published code rescales Adam's learning rate and betas as for lazy regularization with an
#: interval of 4, although it has no such regularization (REFERENCE.md §8.6).
LR_SCALE, PUBLISHED_BETAS = 4 / 5, (0.0, 0.99 ** (4 / 5))


@documented
@dataclass(frozen=True)
class Weights:
    """Weights of the loss terms; 0 disables a term. The published method uses `directional` only.

    Raises ValueError if a weight is negative or all are zero.
    """

    directional: float = setting(1.0, "Weight of the directional term (NADA Eq. 3).", min=0)
    magnitude: float = setting(
        0.0, "Weight of keeping the change of the features at the given magnitude.", min=0
    )
    global_text: float = setting(
        0.0, "Weight of the distance between image and target text (NADA Eq. 1).", min=0
    )
    patch: float = setting(0.0, "Weight of the directional term on random patches.", min=0)
    texture: float = setting(0.0, "Weight of preserving the image features of the source.", min=0)
    manifold: float = setting(
        0.0,
        "Weight of turning the features of each image by exactly the angle between the two texts; "
        "helps where images change too little or too much.",
        min=0,
    )
    strokes: float = setting(
        0.0,
        "Weight of matching the distribution of small patches to the source, or to the target "
        "images if there are any.",
        min=0,
    )
    range: float = setting(0.0, "Weight of penalizing pixels outside [−1, 1].", min=0)

    def __post_init__(self):
        check_settings(self)
        if not any(vars(self).values()):
            raise UserError(
                "directional: got 0 for this and all other weights, expected one above 0"
            )


@documented
@dataclass(frozen=True)
class ViewConfig:
    """How images are presented to the encoders."""

    views: int = setting(2, "Random views per image; 0: the unmodified image, as published.", min=0)
    cutouts: int = setting(
        0, "Random cutouts per image, in addition, if it is larger than the encoder's input.", min=0
    )
    augment: str = setting("light", "Strength of the random augmentation.", choices=tuple(AUGMENTS))
    patch_size: float = setting(
        0.5, "Side of the patches of the patch term, as a fraction of the image's.", above=0, max=1
    )

    def __post_init__(self):
        check_settings(self)


@documented
@dataclass(frozen=True)
class StopRule:
    """Early stopping; 0 disables a criterion."""

    diversity: float = setting(
        0.4,
        "Stop if the diversity of the images, relative to the source's, falls below this.",
        min=0,
    )
    patience: int = setting(6, "Stop after this many consecutive checks without progress.", min=0)
    least: float = setting(
        0.005, "Smallest increase of the agreement that counts as progress.", min=0
    )
    length: float = setting(
        1.0, "Stop when the change has this fraction of the magnitude, if that is set.", min=0
    )

    def __post_init__(self):
        check_settings(self)


@documented
@dataclass(frozen=True)
class AdaptConfig:
    """Configuration of `adapt`. Raises ValueError for values out of range."""

    steps: int = setting(300, "Maximum number of steps.", min=0)
    batch: int = setting(4, "Images per step.", min=1)
    lr: float = setting(0.002, "Learning rate.", above=0)
    betas: tuple[float, float] = setting(PUBLISHED_BETAS, "Betas of Adam.")
    # Shapes have further to go than colours, hence a factor for coarse layers.
    coarse_lr: float = setting(
        1.0,
        "Learning rate of the coarsest layer relative to the finest; geometric in between.",
        above=0,
    )
    warmup: int = setting(
        0,
        "Steps over which the learning rate rises at the start of each stage of layers.",
        min=0,
    )
    decay: float = setting(
        0.0, "Fraction of the steps, at the end, over which the learning rate falls.", min=0, max=1
    )
    seed: int = setting(0, "Random seed.", min=0, max=2**32 - 1)
    truncation: float = setting(0.7, "Truncation psi of the training latents.")
    layers: str = setting(
        "paper",
        "Layers to train: paper, coarse, shape, texture, all, equivariant, auto, names like "
        "input,L0-L3, or stages like 'coarse:0.6 then all'.",
    )
    auto_k: int = setting(4, "Number of layers that 'auto' selects.", min=1)
    auto_every: int = setting(10, "Steps between selections of 'auto'.", min=1)
    auto_batch: int = setting(8, "Latents per selection of 'auto'.", min=1)
    auto_moves: int = setting(1, "Optimization steps per selection of 'auto'.", min=1)
    ema: float = setting(
        0.98, "EMA decay of the weights; the average is the result.", min=0, below=1
    )
    # The bundled encoders know few words and do not understand most of the 79 sentences.
    templates: str | tuple[str, ...] | None = setting(
        None,
        "Prompt templates: imagenet, mini, plain, or sentences that contain {}.",
        unset="mini for the bundled encoders, else imagenet",
    )
    magnitude: float | None = setting(
        None,
        "Desired length of the change of the features, in units of the distance between the texts, "
        "such as 0.95.",
        above=0,
        unset="not used",
    )
    weights: Weights = setting(factory=Weights, doc="Weights of the loss terms.")
    views: ViewConfig = setting(factory=ViewConfig, doc="Views of the images.")
    stop: StopRule | None = setting(factory=StopRule, doc="Early stopping; None: all steps.")
    check_every: int = setting(10, "Steps between checks of the stop rule.", min=1)
    check_batch: int = setting(16, "Latents per check of the stop rule.", min=2)
    source_noise: float = setting(
        5e-4, "Standard deviation of the noise on the source's images, as published.", min=0
    )
    class_index: ClassLabel | None = setting(
        None, "Class index; required for conditional networks.", min=0, unset="none"
    )
    force_fp32: bool = setting(True, "Compute all layers in float32.")

    def __post_init__(self):
        check_settings(self)
        if self.weights.magnitude and self.magnitude is None:
            raise UserError(
                "magnitude: got none, expected a length above 0, which the magnitude term needs"
            )
        if self.templates is not None:
            templates_of(self.templates)


@documented
@dataclass(frozen=True)
class RecordConfig:
    """What `AdaptationRecord` writes."""

    image_every: int = setting(50, "Steps between image grids, each with a state to resume.", min=1)
    video: bool = setting(True, "Write a latent interpolation, source and adapted side by side.")
    rank: int | None = setting(
        None, "Singular values that the delta keeps per tensor.", min=1, unset="all"
    )
    delta_dtype: str = setting("fp16", "Number format of the delta.", choices=("fp16", "fp32"))

    def __post_init__(self):
        check_settings(self)


#: As published: unmodified images, directional term only.
PUBLISHED = AdaptConfig(views=ViewConfig(views=0))
#: Tuned for the bundled encoders (docs/LOG.md).
MINI = AdaptConfig(
    steps=400,
    lr=0.008,
    betas=(0.9, 0.99),
    # A rate that falls from coarse to fine beat training in stages.
    coarse_lr=6.0,
    # A high rate at once, with the magnitude term, gave garish blobs.
    warmup=60,
    decay=0.5,
    # The distance to true renders is measured at psi 1.
    truncation=1.0,
    layers="all",
    magnitude=0.95,
    # The published settings moved features by 5 % of the texts' difference: nothing to be seen.
    weights=Weights(directional=1, magnitude=2, range=4),
    # Four views were no better than one.
    views=ViewConfig(views=1),
)


def usual_config(clip: str | Encoder) -> AdaptConfig:
    """Return the recommended configuration for an encoder (see `load_encoder`)."""
    from guidance.encoders import is_mini

    return MINI if is_mini(clip) else PUBLISHED
