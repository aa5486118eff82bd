"""`bias_act`: per-channel bias, activation, gain and clamp in one step (REFERENCE.md §1.4)."""

from ops_cuda.bias_act.operator import bias_act
from ops_cuda.bias_act.reference import ACTIVATIONS, PIECEWISE_LINEAR, SQRT2, Activation

__all__ = ["ACTIVATIONS", "PIECEWISE_LINEAR", "SQRT2", "Activation", "bias_act"]
