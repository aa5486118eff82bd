"""Layers that compute the same as ours out of operators that every runtime has.

Under `torch.export` all of `ops_cuda` runs as plain PyTorch (`ops_cuda.choose.exporting`). Runtimes
would filter an image with zeros between its pixels, however, so that the resampling of StyleGAN3
and of StyleGAN2's upsampling convolutions is replaced by the one of `sg3.export.phases`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ops_cuda import bias_act
from ops_cuda.bias_act import ACTIVATIONS
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.fir import as_padding
from sg3.export.phases import Depthwise, Form, PhaseResampling, interleaved
from sg3.networks import sg2_layers, stylegan2, stylegan3
from sg3.networks.layer_schedule import LayerPlan


class PlainLayer(nn.Module):
    """`sg3.networks.stylegan3.SynthesisLayer` with the same weights."""

    def __init__(self, layer: stylegan3.SynthesisLayer, plan: LayerPlan, form: Form):
        super().__init__()
        self.affine, self.bias = layer.affine, layer.bias
        self.demodulate = not layer.is_torgb
        self.clamp, self.slope = layer.conv_clamp, 1.0 if layer.is_torgb else 0.2
        # Weights of unit variance, which the original computes in every call.
        energy = layer.weight.square().mean(dim=[1, 2, 3], keepdim=True)
        norm = energy.rsqrt() if self.demodulate else 1 / (layer.weight[0].numel()) ** 0.5
        self.weight = nn.Parameter(layer.weight * norm, requires_grad=False)
        self.register_buffer("input_gain", layer.magnitude_ema.rsqrt())
        self.width, self.height = plan.target.shape.width, plan.target.shape.height
        steps = _resamplings(layer, plan, 1.0 if layer.is_torgb else 2**0.5)
        up, down, spare = steps or (None, None, 0)
        self.padding = layer.conv_kernel - 1 - spare
        self.up = nn.Identity() if up is None else form(up, len(self.weight))
        self.down = nn.Identity() if down is None else form(down, len(self.weight))

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, force_fp32: bool = True, update_emas: bool = False
    ) -> torch.Tensor:
        """`x` `[N, I, H, W]`, `w` `[N, w_dim]` → `[N, O, H', W']`; the flags have no effect."""
        s = self.affine(w)
        if self.padding < 0:
            x = x[:, :, -self.padding : self.padding, -self.padding : self.padding]
        x = x * (s * self.input_gain)[:, :, None, None]
        x = F.conv2d(x, self.weight, padding=max(self.padding, 0))
        if self.demodulate:
            energy = self.weight.square().sum(dim=[2, 3])
            x = x * (s.square() @ energy.t() + 1e-8).rsqrt()[:, :, None, None]
        phases = self.down([self._act(each) for each in self.up([x + self.bias[:, None, None]])])
        return interleaved(phases, len(self.weight))[:, :, : self.height, : self.width]

    def _act(self, x: torch.Tensor) -> torch.Tensor:
        if self.slope != 1:
            x = F.leaky_relu(x, self.slope)  # its gain is part of `up`
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def _resamplings(
    layer: stylegan3.SynthesisLayer, plan: LayerPlan, gain: float
) -> tuple[PhaseResampling, PhaseResampling, int] | None:
    """Return the resampling before (times `gain`) and after the leaky ReLU of a layer.

    The last value is the margin of the convolution's output that the first one does not need. None
    is for a layer that keeps its resolution.
    """
    fu, fd, up, down = layer.up_filter, layer.down_filter, layer.up_factor, layer.down_factor
    padding = as_padding(layer.padding)
    if fu is None and fd is None and not any(padding) and up == down == gain == 1:
        return None
    geometry = Geometry(up, down, padding, gain, 0.2, layer.conv_clamp, False)
    shape = plan.source.shape
    size = shape.width + layer.conv_kernel - 1, shape.height + layer.conv_kernel - 1
    fine = _phase_size(geometry.middle_size(*size, fu), up)
    out = _phase_size(geometry.output_size(*size, fu, fd), up // down)
    before = PhaseResampling(fu, gain * up**2, up, 1, 1, (padding[0], padding[2]), size, fine)
    before, spare = before.without_spare()
    return before, PhaseResampling(fd, 1, 1, down, up, (0, 0), fine, out), spare


def _phase_size(size: tuple[int, int], phases: int) -> tuple[int, int]:
    """Return the size of the largest phase of an image."""
    return -(-size[0] // phases), -(-size[1] // phases)


class PlainUpsamplingLayer(nn.Module):
    """An upsampling `sg3.networks.sg2_layers.SynthesisLayer` with the same weights."""

    def __init__(self, layer: sg2_layers.SynthesisLayer, form: Form):
        super().__init__()
        self.layer = layer
        taps, kernel, up = len(layer.resample_filter), layer.weight.shape[2], layer.up
        size = layer.size
        # The full convolution of the strided one, and what `conv2d_resample` crops of it.
        full_w, full_h = (side - up + kernel for side in (size.width, size.height))
        pad = layer.padding + (taps + up - 1) // 2 - (kernel - 1)
        full, out = (full_w, full_h), (size.width, size.height)
        blur = PhaseResampling(layer.resample_filter, up**2, 1, 1, 1, (pad, pad), full, out)
        self.blur = form(blur, len(layer.weight))

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, noise_mode: str = "const", gain: float = 1
    ) -> torch.Tensor:
        """`x` `[N, I, H, W]`, `w` `[N, w_dim]` → `[N, O, H·up, W·up]`."""
        layer = self.layer
        s = layer.styles(w)
        # A transposed convolution reverses the kernel, as this layer does.
        kernel = layer.weight.transpose(0, 1)
        (x,) = self.blur([F.conv_transpose2d(x * s[:, :, None, None], kernel, stride=layer.up)])
        energy = layer.weight.square().sum(dim=[2, 3])
        x = x * (s.square() @ energy.t() + 1e-8).rsqrt()[:, :, None, None]
        if layer.use_noise and noise_mode == "const":
            x = x + layer.noise_const * layer.noise_strength
        gain = ACTIVATIONS[layer.activation].gain * gain
        clamp = None if layer.conv_clamp is None else layer.conv_clamp * gain
        return bias_act(x, layer.bias, act=layer.activation, gain=gain, clamp=clamp)


def plain_generator(G: nn.Module, form: Form = Depthwise) -> nn.Module:
    """Return a copy of `G` on the CPU in float32 that computes the same with plain operators.

    `form` is what resamples: `Depthwise` or `Grouped`.
    """
    G = copy.deepcopy(G).to("cpu", torch.float32).eval().requires_grad_(False)
    synthesis = G.get_submodule("synthesis")
    if isinstance(synthesis, stylegan3.SynthesisNetwork):
        for plan in synthesis.plans:
            _replace(synthesis, plan.name, partial(PlainLayer, plan=plan, form=form))
    else:
        for block in synthesis.children():
            if isinstance(block, stylegan2.SynthesisBlock) and block.in_channels:
                _replace(block, "conv0", partial(PlainUpsamplingLayer, form=form))
    return G


def _replace(parent: nn.Module, name: str, make: Callable[..., nn.Module]) -> None:
    setattr(parent, name, make(parent.get_submodule(name)))
