"""`filtered_lrelu`: a leaky ReLU between upsampling and downsampling (REFERENCE.md §1.5)."""

from ops_cuda.filtered_lrelu.operator import filtered_lrelu

__all__ = ["filtered_lrelu"]
