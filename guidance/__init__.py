"""Text guidance for StyleGAN: steer, edit and invert latents.

    import guidance, sg3

    nets = sg3.load("mini-faces")
    for step in guidance.steer(nets, "a smiling woman with red hair", progress=True):
        ...                                    # step.loss, step.latent, step.image

All names are imported on first use: `import guidance` does not import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sg3.installation import check_packages

check_packages("ops_cuda", "guidance")

from guidance.lazy import lazy_names  # noqa: E402

if TYPE_CHECKING:
    from guidance.augment import Augment
    from guidance.directions.base import Direction, apply_directions, sweep
    from guidance.directions.cache import find_relevance
    from guidance.directions.centres import centres_of, mix_styles, truncate
    from guidance.directions.files import read_direction, write_direction
    from guidance.directions.linear import (
        described_direction,
        labelled_direction,
        pca_direction,
        sefa_direction,
    )
    from guidance.directions.text import text_direction
    from guidance.distance import Distance, load_distance
    from guidance.encoders import Encoder, load_encoder
    from guidance.inversion.config import ProjectConfig, TuneConfig
    from guidance.inversion.projection import ProjectStep, project
    from guidance.inversion.tuning import TuneStep, Tuning, tune
    from guidance.latent_files import read_latent, write_latent
    from guidance.latents import map_latents, seed_latents
    from guidance.masks import Region, load_region
    from guidance.prompts import Prompt, image_prompt
    from guidance.render import EditedLatent
    from guidance.steering.config import SteerConfig
    from guidance.steering.dissolve import dissolve
    from guidance.steering.record import SteeringRecord
    from guidance.steering.run import SteeringRun, SteerStep
    from guidance.steering.steer import steer, steer_batch

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation
__all__ = [
    "Augment",
    "Direction",
    "Distance",
    "EditedLatent",
    "Encoder",
    "ProjectConfig",
    "ProjectStep",
    "Prompt",
    "Region",
    "SteerConfig",
    "SteerStep",
    "SteeringRecord",
    "SteeringRun",
    "TuneConfig",
    "TuneStep",
    "Tuning",
    "apply_directions",
    "centres_of",
    "described_direction",
    "dissolve",
    "find_relevance",
    "image_prompt",
    "labelled_direction",
    "load_distance",
    "load_encoder",
    "load_region",
    "map_latents",
    "mix_styles",
    "pca_direction",
    "project",
    "read_direction",
    "read_latent",
    "seed_latents",
    "sefa_direction",
    "steer",
    "steer_batch",
    "sweep",
    "text_direction",
    "truncate",
    "tune",
    "write_direction",
    "write_latent",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "guidance.augment": ["Augment"],
        "guidance.directions": [
            "Direction",
            "apply_directions",
            "centres_of",
            "described_direction",
            "find_relevance",
            "labelled_direction",
            "mix_styles",
            "pca_direction",
            "read_direction",
            "sefa_direction",
            "sweep",
            "text_direction",
            "truncate",
            "write_direction",
        ],
        "guidance.distance": ["Distance", "load_distance"],
        "guidance.encoders": ["Encoder", "load_encoder"],
        "guidance.inversion.config": ["ProjectConfig", "TuneConfig"],
        "guidance.inversion.projection": ["ProjectStep", "project"],
        "guidance.inversion.tuning": ["TuneStep", "Tuning", "tune"],
        "guidance.latent_files": ["read_latent", "write_latent"],
        "guidance.latents": ["map_latents", "seed_latents"],
        "guidance.masks": ["Region", "load_region"],
        "guidance.prompts": ["Prompt", "image_prompt"],
        "guidance.render": ["EditedLatent"],
        "guidance.steering.config": ["SteerConfig"],
        "guidance.steering.dissolve": ["dissolve"],
        "guidance.steering.record": ["SteeringRecord"],
        "guidance.steering.run": ["SteerStep", "SteeringRun"],
        "guidance.steering.steer": ["steer", "steer_batch"],
    },
)
