"""How good generated images are: distances to real ones, and equivariance (REFERENCE.md §6).

`evaluate` measures one generator by a metric's name; `registry` tells which names there are.
"""

from sg3.metrics.evaluate import evaluate, write_result
from sg3.metrics.features import FeatureNetwork, load_features
from sg3.metrics.frechet import frechet_distance
from sg3.metrics.registry import check_names, parse_name

__all__ = [
    "FeatureNetwork",
    "check_names",
    "evaluate",
    "frechet_distance",
    "load_features",
    "parse_name",
    "write_result",
]
