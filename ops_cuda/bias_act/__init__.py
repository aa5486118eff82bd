"""`bias_act`: per-channel bias, activation, gain and clamp in one step (FACTS 1.4)."""

from ops_cuda.bias_act.definition import ACTIVATIONS, PIECEWISE_LINEAR, SQRT2, Activation
from ops_cuda.bias_act.operator import bias_act

__all__ = ["ACTIVATIONS", "PIECEWISE_LINEAR", "SQRT2", "Activation", "bias_act"]
