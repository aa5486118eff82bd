"""Network files: loading, saving, official pickles, registry, downloads, deltas."""

from sg3.checkpoints.delta import Delta, apply_deltas, difference, load_delta, merge, save_delta
from sg3.checkpoints.load import load
from sg3.checkpoints.networks import Networks
from sg3.checkpoints.safetensors_io import save

__all__ = [
    "Delta",
    "Networks",
    "apply_deltas",
    "difference",
    "load",
    "load_delta",
    "merge",
    "save",
    "save_delta",
]
