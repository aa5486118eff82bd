"""Image-text models behind one interface: the bundled mini encoders and all open_clip models."""

from guidance.encoders.base import Encoder, prepare_images
from guidance.encoders.ensemble import EnsembleEncoder
from guidance.encoders.load import is_mini, load_encoder
from guidance.encoders.text import clean_text, left_out, unknown_words

__all__ = [
    "Encoder",
    "EnsembleEncoder",
    "clean_text",
    "is_mini",
    "left_out",
    "load_encoder",
    "prepare_images",
    "unknown_words",
]
