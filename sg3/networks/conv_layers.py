"""Convolutions with equalized learning rate and built-in resampling (REFERENCE.md §3.1).

Used by the StyleGAN2 generator and by the discriminator of all configurations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ops_cuda import bias_act, conv2d_resample, setup_filter
from ops_cuda.bias_act import ACTIVATIONS, PIECEWISE_LINEAR

#: Binomial low-pass filter, the resampling filter of StyleGAN2 (SG2 Sec. 5).
RESAMPLE_FILTER = (1, 3, 3, 1)
#: Keeps unit variance when the two branches of a residual block are added.
RESIDUAL_GAIN = math.sqrt(0.5)


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Return the number of feature channels of the block with `resolution` pixels per side."""
    return min(channel_base // resolution, channel_max)


def lowest_fp16_resolution(img_resolution: int, num_fp16_res: int) -> int:
    """Return the smallest block resolution that may compute in half precision."""
    # `bit_length` of a power of two is log2 + 1. Blocks below 8 pixels stay in float32.
    return max(2 ** (img_resolution.bit_length() - num_fp16_res), 8)


def check_architecture(architecture: str) -> None:
    """Raise ValueError unless `architecture` is orig, skip or resnet (SG2 Fig. 7)."""
    if architecture not in ("orig", "skip", "resnet"):
        raise ValueError(f"architecture: got {architecture!r}, expected orig, skip or resnet")


def conv_weight(
    out_channels: int, in_channels: int, kernel_size: int, channels_last: bool
) -> torch.Tensor:
    """Return random weights `[O, I, k, k]` of unit variance."""
    weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
    return weight.to(memory_format=torch.channels_last) if channels_last else weight


def enter_block(
    x: torch.Tensor, half: torch.dtype | None, full: torch.dtype, half_channels_last: bool
) -> torch.Tensor:
    """Cast `x` `[N, C, H, W]` to the precision and memory format of a block.

    On a CPU the memory format becomes channels-last, which makes the convolutions (including those
    of R1's double backward) about 25 % faster.

    Args:
        x: features or image.
        half: dtype on CUDA; None: `full`.
        full: dtype otherwise.
        half_channels_last: use channels-last for `half` on CUDA.
    """
    on_cuda = x.device.type == "cuda"
    dtype = half if half is not None and on_cuda else full
    channels_last = (half is not None and half_channels_last) if on_cuda else True
    return x.to(
        dtype=dtype,
        memory_format=torch.channels_last if channels_last else torch.preserve_format,
    )


def register_tensor(module: nn.Module, name: str, value: torch.Tensor, trainable: bool) -> None:
    """Register `value` as a parameter if trainable, else as a buffer of the same name."""
    if trainable:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)


class Conv2dLayer(nn.Module):
    """Convolution, bias, activation: `[N, in, H, W]` → `[N, out, H·up/down, W·up/down]`.

    The weight is stored with unit variance and scaled at run time by `1/√(in·k²)`, which equalizes
    the effective learning rate of all layers.

    Args:
        in_channels, out_channels: number of channels.
        kernel_size: side of the kernel.
        bias: add a bias.
        activation: an activation of `ops_cuda.bias_act`.
        up, down: resampling factors.
        resample_filter: low-pass filter of the resampling.
        conv_clamp: clamp of the output; None: no clamp.
        channels_last: store the weight in channels-last format.
        trainable: False stores weight and bias as buffers (Freeze-D).
    """

    resample_filter: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = RESAMPLE_FILTER,
        conv_clamp: float | None = None,
        channels_last: bool = False,
        trainable: bool = True,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.activation, self.up, self.down = activation, up, down
        self.conv_clamp, self.padding = conv_clamp, kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        weight = conv_weight(out_channels, in_channels, kernel_size, channels_last)
        register_tensor(self, "weight", weight, trainable)
        if bias:
            register_tensor(self, "bias", torch.zeros([out_channels]), trainable)
        else:
            self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        """`x` `[N, in, H, W]` → `[N, out, H', W']` in the dtype of `x`.

        `gain` multiplies the output and the clamp.
        """
        act_gain: float = ACTIVATIONS[self.activation].gain * gain
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        weight_gain, bias = self.weight_gain, self.bias
        if self.activation in PIECEWISE_LINEAR and act_gain > 0:
            # act(x)·g = act(x·g): scaling the weight is cheaper than a pass over the image.
            weight_gain = weight_gain * act_gain
            bias = None if bias is None else bias * act_gain
            act_gain = 1
        x = conv2d_resample(
            x,
            (self.weight * weight_gain).to(x.dtype),
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            # Stored weights are applied reversed when upsampling (REFERENCE.md §3.1).
            flip_weight=self.up == 1,
        )
        bias = None if bias is None else bias.to(x.dtype)
        return bias_act(x, bias, act=self.activation, gain=act_gain, clamp=clamp)
