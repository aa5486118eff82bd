"""Generators in the layouts of other tools: state dicts under official or other names."""

from sg3.checkpoints.layouts.rebuild import networks_of_tensors
from sg3.checkpoints.layouts.stated import Stated

__all__ = ["Stated", "networks_of_tensors"]
