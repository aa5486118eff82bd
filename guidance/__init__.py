"""A text (or an image) pulls a latent."""

from guidance.encoders import Encoder, load_encoder
from guidance.steering.steer import SteerConfig, Step, steer, steer_batch

__all__ = ["Encoder", "SteerConfig", "Step", "load_encoder", "steer", "steer_batch"]
