"""Network files: ours (safetensors) and the official pickles, the registry, downloads."""

from sg3.checkpoints.load import load
from sg3.checkpoints.networks import Networks
from sg3.checkpoints.safetensors_io import save

__all__ = ["Networks", "load", "save"]
