"""Training: configuration, losses, the step, the loop."""

from sg3.training.config import TrainConfig
from sg3.training.describe import describe
from sg3.training.loop import Step, train

__all__ = ["Step", "TrainConfig", "describe", "train"]
