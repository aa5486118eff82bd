"""Network files: ours (safetensors) and the official pickles, the registry, downloads."""

from sg3.checkpoints.load import load
from sg3.checkpoints.networks import Networks, RawNetwork
from sg3.checkpoints.safetensors_io import save

__all__ = ["Networks", "RawNetwork", "load", "save"]
