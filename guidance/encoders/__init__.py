"""Image–text models: one interface, the bundled mini encoders, and every open_clip model."""

from guidance.encoders.base import Encoder, prepare_images
from guidance.encoders.ensemble import EnsembleEncoder
from guidance.encoders.load import is_mini, load_encoder

__all__ = ["Encoder", "EnsembleEncoder", "is_mini", "load_encoder", "prepare_images"]
