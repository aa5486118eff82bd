"""Settings of steering."""

from __future__ import annotations

from dataclasses import dataclass

from guidance.augment import AUGMENTS, Augment
from guidance.learning_rate import SCHEDULES
from guidance.templates import templates_of
from sg3.errors import UserError
from sg3.settings import ClassLabel, check_settings, documented, setting


@documented
@dataclass(frozen=True)
class SteerConfig:
    """Settings of `guidance.steer`. Raises ValueError for values out of range."""

    steps: int = setting(60, "Number of optimization steps.", min=0)
    seed: int = setting(0, "Random seed.")
    space: str = setting(
        "w",
        'Space to optimize in. "w": one latent for all layers; "w+": one per layer, which moves '
        'more freely and further from the manifold; "s": the styles of all channels except those '
        "of ToRGB layers (StyleSpace).",
        choices=("w", "w+", "s"),
    )
    basis: str = setting(
        "pca",
        'Coordinates in w and w+. "pca": principal components of W; "std": every element of w '
        "scaled by its standard deviation (REFERENCE.md §8.1).",
        choices=("pca", "std"),
    )
    components: int = setting(48, 'Number of principal components of basis "pca".', min=1)
    transform: str = setting(
        "follow",
        'Input transform of a StyleGAN3. "follow": computed from w as usual; "free": optimized as '
        'well; "held": kept at its value at the start.',
        choices=("follow", "free", "held"),
    )
    layers: str | None = setting(
        None,
        'Layers that may change: rows of ws such as "4-6", or names such as "L3-L5".',
        unset="all layers",
    )
    start: str = setting(
        "best",
        'Where to start. "best": the best of a number of random candidates; "seed": the image of '
        'the seed; "mean": the mean of W.',
        choices=("best", "seed", "mean"),
    )
    candidates: int | None = setting(
        None,
        "Number of random images to choose the start from.",
        min=1,
        unset="128 for images of up to 64 pixels, else 32",
    )
    generations: int | None = setting(
        None,
        "Rounds of crossover among the best candidates.",
        min=0,
        unset="4 for images of up to 64 pixels, else 0",
    )
    truncation: float = setting(1.0, "Truncation psi of the candidates.")
    lr: float = setting(0.1, "Learning rate, in standard deviations of W.", min=0)
    schedule: str = setting(
        "ramp",
        'Learning-rate schedule. "ramp": short warm-up, cosine decay over the last quarter; '
        '"cosine": short warm-up, cosine decay; "constant": no change.',
        choices=SCHEDULES,
    )
    betas: tuple[float, float] = setting((0.0, 0.999), "Betas of Adam.")
    ema: float = setting(
        0.9, "EMA decay of the latents that are shown and returned.", min=0, below=1
    )
    patience: int = setting(
        0, "Stop after this many steps without progress; 0 runs all steps.", min=0
    )
    stall: float = setting(
        1e-3, "Smallest decrease of the averaged loss that counts as progress.", min=0
    )
    prior: float = setting(
        0.0,
        "Weight of the distance from the mean of W (mean squared whitened coordinate).",
        min=0,
    )
    keep: float | None = setting(
        None,
        "Weight of the distance from the start (mean squared change of the coordinates), which "
        "preserves what the prompt does not mention.",
        min=0,
        # The best candidate already resembles the prompt; any other start has to move further.
        unset='1 from start "best", 0.1 otherwise',
    )
    perceptual: float = setting(
        0.0, "Weight of the perceptual distance from the start image.", min=0
    )
    perceptual_distance: str = setting(
        "auto",
        'Perceptual distance. "lpips" needs weights; "scales" does not; "auto" takes lpips if its '
        "weights are installed.",
        choices=("auto", "lpips", "scales"),
    )
    identity: float = setting(
        0.0, "Weight of the identity distance from the start; needs an identity encoder.", min=0
    )
    identity_encoder: str | None = setting(
        None, "TorchScript file of a face encoder, or an image-text model.", unset="none"
    )
    outside: float | None = setting(
        None,
        "Weight of the squared change of pixels outside the region.",
        min=0,
        unset="30",
    )
    max_sigma: float = setting(
        1.25, "Largest distance from the mean of W, in standard deviations; 0 = no limit.", min=0
    )
    cutouts: int | None = setting(
        None,
        "Random views per image and step (random crops or small augmentations that the encoder "
        "sees).",
        min=1,
        unset="32 for images larger than the encoder's input, else 2",
    )
    augment: str | Augment = setting(
        "light", 'Augmentation of the views: "none", "light", "strong" or an `Augment`.'
    )
    distance: str = setting(
        "spherical",
        'Distance between embeddings. "directional" compares the change of the image with that '
        "from the source text to the prompt (REFERENCE.md §8.6).",
        choices=("spherical", "cosine", "directional"),
    )
    source: str | None = setting(
        None, 'Text that describes the start, for the directional distance: "a face".', unset="none"
    )
    templates: str | tuple[str, ...] = setting(
        "plain",
        'Sentences to average each text over: "plain", "mini", "imagenet", or sentences with {}.',
    )
    class_index: ClassLabel | None = setting(
        None, "Class index; required by conditional networks.", unset="none"
    )
    force_fp32: bool = setting(False, "Run all layers in float32, on GPUs too.")

    def __post_init__(self) -> None:
        check_settings(self)
        if not (isinstance(self.augment, Augment) or self.augment in AUGMENTS):
            names = " or ".join(AUGMENTS)
            raise UserError(f"augment: got {self.augment!r}, expected {names} or an Augment")
        if self.distance == "directional" and self.source is not None and not self.source.strip():
            raise UserError("source: got an empty text, expected one such as 'a face'")
        if self.identity and not self.identity_encoder:
            raise UserError(
                "identity_encoder: got none, but `identity` needs a face encoder; expected a "
                "TorchScript file or the name of an image-text model"
            )
        templates_of(self.templates)

    @property
    def views(self) -> Augment:
        """The augmentation of the views."""
        return AUGMENTS[self.augment] if isinstance(self.augment, str) else self.augment
