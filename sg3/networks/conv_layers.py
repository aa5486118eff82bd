"""Convolutions with an equalised learning rate and built-in resampling (REFERENCE.md §3.1).

Shared by the StyleGAN2 generator and by the discriminator of all configurations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ops_cuda import bias_act, conv2d_resample, setup_filter
from ops_cuda.bias_act import ACTIVATIONS, PIECEWISE_LINEAR

#: Binomial low-pass, the resampling filter of StyleGAN2 (SG2 Sec. 5).
RESAMPLE_FILTER = (1, 3, 3, 1)
#: Keeps the variance when two branches of a residual block are added.
RESIDUAL_GAIN = math.sqrt(0.5)


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Feature channels of the block with `resolution` pixels a side."""
    return min(channel_base // resolution, channel_max)


def lowest_fp16_resolution(img_resolution: int, num_fp16_res: int) -> int:
    """Blocks of at least this many pixels a side may compute in half precision."""
    return max(2 ** (img_resolution.bit_length() - num_fp16_res), 8)


def check_architecture(architecture: str) -> None:
    """Raise ValueError unless `architecture` is a known arrangement of blocks (SG2 Fig. 7)."""
    if architecture not in ("orig", "skip", "resnet"):
        raise ValueError(f"architecture: got {architecture!r}, expected orig, skip or resnet")


def conv_weight(
    out_channels: int, in_channels: int, kernel_size: int, channels_last: bool
) -> torch.Tensor:
    """Random weights `[O, I, k, k]` of variance 1 in the wanted memory format."""
    weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
    return weight.to(memory_format=torch.channels_last) if channels_last else weight


def enter_block(
    x: torch.Tensor, half: torch.dtype | None, full: torch.dtype, half_channels_last: bool
) -> torch.Tensor:
    """Cast `x` `[N, C, H, W]` to a block's precision: `half` on CUDA, if given, else `full`.

    On CPU the memory format becomes channels-last, which makes the convolutions (also those of
    R1's double backward) about a quarter faster; on CUDA only for fp16 blocks that ask for it.
    """
    on_cuda = x.device.type == "cuda"
    is_half = half is not None and on_cuda
    channels_last = (is_half and half_channels_last) if on_cuda else True
    return x.to(
        dtype=half if is_half else full,
        memory_format=torch.channels_last if channels_last else torch.preserve_format,
    )


def register_tensor(module: nn.Module, name: str, value: torch.Tensor, trainable: bool) -> None:
    """Store `value` as a parameter, or as a buffer of the same name when frozen."""
    if trainable:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)


class Conv2dLayer(nn.Module):
    """Convolution, bias, activation: `[N, in, H, W]` → `[N, out, H·up/down, W·up/down]`.

    The weight is stored with variance 1 and scaled at run time by `1/√(in·k²)`. A layer with
    `trainable=False` keeps weight and bias as buffers of the same names (Freeze-D).
    `channels_last` stores the weight in that memory format.
    """

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
        """`gain` multiplies the output (and the clamp); computes in the dtype of `x`."""
        act_gain = ACTIVATIONS[self.activation].gain * gain
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        weight_gain, bias = self.weight_gain, self.bias
        if self.activation in PIECEWISE_LINEAR and act_gain > 0:
            # act(x)·g = act(x·g): scaling the small weight saves passes over the large image.
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
            flip_weight=self.up == 1,
        )
        bias = None if bias is None else bias.to(x.dtype)
        return bias_act(x, bias, act=self.activation, gain=act_gain, clamp=clamp)
