"""From a photo to a latent: where it lies, which latent it is, and what the network must learn."""

from guidance.distance import Distance, load_distance
from guidance.inversion.project import ProjectConfig, Step, project
from guidance.inversion.tune import TuneConfig, TuneStep, Tuning, tune

__all__ = [
    "Distance",
    "ProjectConfig",
    "Step",
    "TuneConfig",
    "TuneStep",
    "Tuning",
    "load_distance",
    "project",
    "tune",
]
