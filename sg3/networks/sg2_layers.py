"""Layers of the StyleGAN2 generator: modulated convolution, ToRGB (REFERENCE.md §3.2, §3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ops_cuda import bias_act, conv2d_resample, setup_filter
from ops_cuda.bias_act import ACTIVATIONS
from sg3.networks.conv_layers import RESAMPLE_FILTER, conv_weight
from sg3.networks.layers import FullyConnectedLayer
from sg3.networks.sizes import ImageSize


def modulated_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    noise: torch.Tensor | None = None,
    demodulate: bool = True,
    up: int = 1,
    padding: int = 0,
    resample_filter: torch.Tensor | None = None,
) -> torch.Tensor:
    """StyleGAN2's modulated convolution (SG2 Sec. 2.2; REFERENCE.md §3.2).

    Instead of per-sample weights, inputs are scaled by `s` and outputs by the demodulation, so
    that one dense convolution serves the whole batch.

    Args:
        x: `[N, I, H, W]`.
        w: weights `[O, I, k, k]`.
        s: styles `[N, I]`.
        noise: `[H', W']` or `[N, 1, H', W']`, added to the result; None: no noise.
        demodulate: scale each output to unit expected variance.
        up: upsampling factor, before the convolution.
        padding: zero padding on each side, at the upsampled resolution.
        resample_filter: low-pass filter of the upsampling.

    Returns:
        `[N, O, H', W']` in the dtype of `x`.

    Raises:
        ValueError: the shapes do not match.
    """
    if x.ndim != 4 or w.ndim != 4 or s.shape != x.shape[:2] or w.shape[1] != x.shape[1]:
        raise ValueError(
            f"x, w, s: got shapes {tuple(x.shape)}, {tuple(w.shape)}, {tuple(s.shape)}, "
            "expected [N, I, H, W], [O, I, k, k], [N, I]"
        )
    if x.dtype == torch.float16 and demodulate:
        # Demodulation cancels any scale of weights and styles: choose one that cannot overflow.
        w = w / (w.abs().amax(dim=[1, 2, 3], keepdim=True) * math.sqrt(w[0].numel()))
        s = s / s.abs().amax(dim=1, keepdim=True)
    x = x * s.to(x.dtype)[:, :, None, None]
    # With upsampling the official implementation convolves, otherwise it correlates.
    x = conv2d_resample(
        x, w.to(x.dtype), resample_filter, up=up, padding=padding, flip_weight=up == 1
    )
    if demodulate:
        # Σ (w·s)² over I, k, k, without building the weights of each sample.
        energy = w.square().sum(dim=[2, 3])  # [O, I]
        demodulation = (s.square() @ energy.t() + 1e-8).rsqrt()  # [N, O]
        x = x * demodulation.to(x.dtype)[:, :, None, None]
    return x if noise is None else x + noise.to(x.dtype)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, activation (SG2 Fig. 2; REFERENCE.md §3.3)."""

    resample_filter: torch.Tensor
    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: ImageSize,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = RESAMPLE_FILTER,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.size = in_channels, out_channels, size
        self.up, self.padding, self.use_noise = up, kernel_size // 2, use_noise
        self.activation, self.conv_clamp = activation, conv_clamp
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1, divide_bias=False)
        self.weight = nn.Parameter(
            conv_weight(out_channels, in_channels, kernel_size, channels_last)
        )
        if use_noise:
            self.register_buffer("noise_const", torch.randn([size.height, size.width]))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros([out_channels]))

    def styles(self, w: torch.Tensor) -> torch.Tensor:
        """Return the styles `[N, in_channels]` of `w` `[N, w_dim]`."""
        return self.affine(w)

    def _noise(self, x: torch.Tensor, noise_mode: str) -> torch.Tensor | None:
        if not self.use_noise or noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const * self.noise_strength
        # One noise image for all channels; only its strength is learned.
        shape = [x.shape[0], 1, self.size.height, self.size.width]
        return torch.randn(shape, device=x.device) * self.noise_strength

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, noise_mode: str = "random", gain: float = 1
    ) -> torch.Tensor:
        """`x` `[N, in_channels, H, W]`, `w` `[N, w_dim]` → `[N, out_channels, H·up, W·up]`."""
        x = modulated_conv2d(
            x,
            self.weight,
            self.styles(w),
            noise=self._noise(x, noise_mode),
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
        )
        return bias_act(
            x,
            self.bias.to(x.dtype),
            act=self.activation,
            gain=ACTIVATIONS[self.activation].gain * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
        )


class ToRGBLayer(nn.Module):
    """Maps features to colours by a convolution without demodulation (REFERENCE.md §3.3)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.conv_clamp, self.padding = conv_clamp, kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1, divide_bias=False)
        self.weight = nn.Parameter(
            conv_weight(out_channels, in_channels, kernel_size, channels_last)
        )
        self.bias = nn.Parameter(torch.zeros([out_channels]))

    def styles(self, w: torch.Tensor) -> torch.Tensor:
        """Return the styles `[N, in_channels]` of `w` `[N, w_dim]`, including the weight gain."""
        return self.affine(w) * self.weight_gain

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """`x` `[N, in_channels, H, W]`, `w` `[N, w_dim]` → `[N, out_channels, H, W]`."""
        styles = self.styles(w)
        x = modulated_conv2d(x, self.weight, styles, demodulate=False, padding=self.padding)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)
