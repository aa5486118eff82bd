"""Image quality and equivariance metrics (REFERENCE.md §6).

`evaluate` computes a metric of a generator by name; `sg3.metrics.registry` explains the names.
"""

from sg3.metrics.evaluate import evaluate, write_result
from sg3.metrics.features import (
    FeatureNetwork,
    PerceptualDistance,
    load_features,
    load_perceptual_distance,
    register_features,
    register_perceptual_distance,
)
from sg3.metrics.frechet import frechet_distance
from sg3.metrics.registry import check_names, parse_name

__all__ = [
    "FeatureNetwork",
    "PerceptualDistance",
    "check_names",
    "evaluate",
    "frechet_distance",
    "load_features",
    "load_perceptual_distance",
    "parse_name",
    "register_features",
    "register_perceptual_distance",
    "write_result",
]
