"""A text pulls the weights of a generator into another domain (StyleGAN-NADA)."""

from nada.adapt import Adaptation, Step, adapt
from nada.config import AdaptConfig
from nada.objective import ViewConfig, Weights
from nada.stop_rule import StopRule

__all__ = ["AdaptConfig", "Adaptation", "Step", "StopRule", "ViewConfig", "Weights", "adapt"]
