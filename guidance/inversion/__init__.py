"""Inversion of photos: find the crop, project it to a latent, tune the generator around it."""

from guidance.distance import Distance, load_distance
from guidance.inversion.config import ProjectConfig, TuneConfig
from guidance.inversion.projection import ProjectStep, project
from guidance.inversion.tuning import TuneStep, Tuning, tune

__all__ = [
    "Distance",
    "ProjectConfig",
    "ProjectStep",
    "TuneConfig",
    "TuneStep",
    "Tuning",
    "load_distance",
    "project",
    "tune",
]
