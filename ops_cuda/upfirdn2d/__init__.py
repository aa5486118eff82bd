"""`upfirdn2d`: zero insertion, padding, FIR filter and decimation (REFERENCE.md §1.3)."""

from ops_cuda.upfirdn2d.operator import downsample2d, filter2d, upfirdn2d, upsample2d
from ops_cuda.upfirdn2d.reference import Resampling

__all__ = ["Resampling", "downsample2d", "filter2d", "upfirdn2d", "upsample2d"]
