"""Inversion of photos: find the crop, project it to a latent, tune the generator around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidance.lazy import lazy_names

if TYPE_CHECKING:
    from guidance.distance import Distance, load_distance
    from guidance.inversion.config import ProjectConfig, TuneConfig
    from guidance.inversion.crops import PhotoCrop, central_crop, cut, put_back
    from guidance.inversion.locate import choose_crop
    from guidance.inversion.projection import ProjectStep, project
    from guidance.inversion.projection_record import ProjectionRecord
    from guidance.inversion.tuning import TuneStep, Tuning, tune

__all__ = [
    "Distance",
    "PhotoCrop",
    "ProjectConfig",
    "ProjectStep",
    "ProjectionRecord",
    "TuneConfig",
    "TuneStep",
    "Tuning",
    "central_crop",
    "choose_crop",
    "cut",
    "load_distance",
    "project",
    "put_back",
    "tune",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "guidance.distance": ["Distance", "load_distance"],
        "guidance.inversion.config": ["ProjectConfig", "TuneConfig"],
        "guidance.inversion.crops": ["PhotoCrop", "central_crop", "cut", "put_back"],
        "guidance.inversion.locate": ["choose_crop"],
        "guidance.inversion.projection": ["ProjectStep", "project"],
        "guidance.inversion.projection_record": ["ProjectionRecord"],
        "guidance.inversion.tuning": ["TuneStep", "Tuning", "tune"],
    },
)
