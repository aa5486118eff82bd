"""Settings of projection and tuning."""

from __future__ import annotations

from dataclasses import dataclass

from sg3.settings import ClassLabel, check_settings, documented, setting


@documented
@dataclass(frozen=True)
class ProjectConfig:
    """Settings of `guidance.project`. Raises ValueError for values out of range."""

    steps: int = setting(300, "Number of optimization steps.", min=0)
    seed: int = setting(0, "Random seed.")
    space: str = setting(
        "w",
        'Space to optimize in. "w": one latent for all layers, which edits well; "w+": one per '
        "layer, which fits better.",
        choices=("w", "w+"),
    )
    basis: str = setting(
        "std",
        'Coordinates. "std": every element of w scaled by its standard deviation; "pca": '
        "principal components of W, scaled to unit variance.",
        choices=("std", "pca"),
    )
    start: str = setting(
        "best",
        'Where to start. "best": the nearest of a number of random candidates; "seed": the image '
        'of the seed; "mean": the mean of W.',
        choices=("best", "seed", "mean"),
    )
    candidates: int = setting(64, "Number of random images to choose the start from.", min=1)
    truncation: float = setting(0.7, "Truncation psi of the candidates.")
    lr: float = setting(0.1, "Learning rate, in standard deviations of W.", min=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "Betas of Adam.")
    exploration: float = setting(
        0.5,
        "Standard deviation of the noise on the latent at the beginning, in standard deviations "
        "of W; it falls to 0 at three quarters of the steps.",
        min=0,
    )
    pixels: float = setting(
        0.1, "Weight of the mean squared pixel error, added to the perceptual distance.", min=0
    )
    prior: float = setting(
        0.0, "Weight of the distance from the mean of W (mean squared whitened coordinate).", min=0
    )
    spread: float = setting(
        0.0, "In w+: weight of the mean squared deviation of the rows from their mean.", min=0
    )
    transform: bool = setting(False, "Optimize the input transform of a StyleGAN3 too.")
    noise: bool = setting(True, "Optimize the noise inputs of a StyleGAN2 too.")
    noise_weight: float = setting(
        1e5, "Weight of the autocorrelation of the noise, which keeps images out of it.", min=0
    )
    class_index: ClassLabel | None = setting(
        None, "Class index; required by conditional networks.", unset="none"
    )
    # As published: the small steps at the end get lost in half precision, the default on GPUs.
    force_fp32: bool = setting(True, "Run all layers in float32, on GPUs too.")

    def __post_init__(self) -> None:
        check_settings(self)


@documented
@dataclass(frozen=True)
class TuneConfig:
    """Settings of `guidance.tune`. Raises ValueError for values out of range."""

    steps: int = setting(350, "Maximum number of optimization steps.", min=0)
    seed: int = setting(0, "Random seed.")
    lr: float | None = setting(
        None,
        "Learning rate of the generator's weights.",
        min=0,
        # Networks for small images have fewer weights, which have to move further.
        unset="2e-3 for images of up to 64 pixels, else 3e-4",
    )
    pixels: float = setting(1.0, "Weight of the mean squared pixel error.", min=0)
    perceptual: float = setting(1.0, "Weight of the perceptual distance.", min=0)
    stop: float | None = setting(
        None,
        "Perceptual distance at which to stop early; 0 runs all steps.",
        min=0,
        unset="where two images can hardly be told apart",
    )
    # Published is 0.1 at every step: the same in total, in a third of the renderings.
    locality: float = setting(
        0.3, "Weight of the change of images of latents near the pivot.", min=0
    )
    locality_every: int = setting(3, "Steps between two measurements of this change.", min=1)
    locality_radius: float = setting(
        1.0,
        "Distance of these latents from the pivot, relative to the root mean square distance of W "
        "from its mean.",
        min=0,
    )
    class_index: ClassLabel | None = setting(
        None, "Class index; required by conditional networks.", unset="none"
    )
    # As published: the small steps get lost in half precision, the default on GPUs.
    force_fp32: bool = setting(True, "Run all layers in float32, on GPUs too.")

    def __post_init__(self) -> None:
        check_settings(self)
