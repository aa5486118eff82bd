"""Signal-processing operators of StyleGAN, each with a reference implementation in plain PyTorch.

The reference implementation is the specification. Fast paths (Numba on CPUs, Triton on GPUs)
compute the same values; all paths of an operator share one gradient formula.
"""

from ops_cuda.bias_act import bias_act
from ops_cuda.conv2d_resample import conv2d_resample
from ops_cuda.filtered_lrelu import filtered_lrelu
from ops_cuda.fir import setup_filter
from ops_cuda.modulated_conv2d import conv2d_before_scaling, modulated_conv2d
from ops_cuda.upfirdn2d import downsample2d, filter2d, upfirdn2d, upsample2d

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation
__all__ = [
    "bias_act",
    "conv2d_before_scaling",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "modulated_conv2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
