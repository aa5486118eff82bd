"""Layers that compute the same as ours out of operators that every runtime has.

Under `torch.export` all of `ops_cuda` runs as plain PyTorch (`ops_cuda.choose.exporting`). Runtimes
have slow depthwise convolutions, however, so that the resampling of StyleGAN3 and of StyleGAN2's
upsampling convolutions is replaced by matrix products, which all of them have fast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ops_cuda import bias_act
from ops_cuda.banded import Axis, axes
from ops_cuda.bias_act import ACTIVATIONS
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.fir import as_padding
from sg3.networks import sg2_layers, stylegan2, stylegan3
from sg3.networks.layer_schedule import LayerPlan


class Resampling(nn.Module):
    """Sum over the terms of a filter of products along both axes, cut into dense blocks.

    Args:
        terms: (x, y) of each term, as `ops_cuda.banded.axes` returns them.
        columns_first: whether the y axis is resampled first; choose the order in which the image
            between the two products is smaller.
    """

    def __init__(self, terms: Iterable[tuple[Axis, Axis]], columns_first: bool):
        super().__init__()
        self.columns_first = columns_first
        self._names: dict[tuple, str] = {}
        self._terms = [(self._blocks(x), self._blocks(y)) for x, y in terms]

    def _blocks(self, axis: Axis) -> list[tuple[slice, str]]:
        """Register the matrices of an axis; all blocks away from the borders share one."""
        found = []
        for rows, _columns, matrix in axis.blocks:
            key = (*matrix.shape, matrix.numpy().tobytes())
            if key not in self._names:
                self._names[key] = f"matrix{len(self._names)}"
                self.register_buffer(self._names[key], matrix.clone())
            found.append((rows, self._names[key]))
        return found

    def _along_rows(self, x: torch.Tensor, blocks: list[tuple[slice, str]]) -> torch.Tensor:
        return _joined([x[..., rows] @ getattr(self, name) for rows, name in blocks], 3)

    def _down_columns(self, x: torch.Tensor, blocks: list[tuple[slice, str]]) -> torch.Tensor:
        return _joined([getattr(self, name).t() @ x[:, :, rows] for rows, name in blocks], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` → `[N, C, H', W']`."""
        if self.columns_first:
            results = [self._along_rows(self._down_columns(x, dy), dx) for dx, dy in self._terms]
        else:
            results = [self._down_columns(self._along_rows(x, dx), dy) for dx, dy in self._terms]
        return sum(results[1:], results[0])


def _joined(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


class PlainLayer(nn.Module):
    """`sg3.networks.stylegan3.SynthesisLayer` with the same weights."""

    def __init__(self, layer: stylegan3.SynthesisLayer, plan: LayerPlan):
        super().__init__()
        self.affine, self.bias = layer.affine, layer.bias
        self.demodulate, self.padding = not layer.is_torgb, layer.conv_kernel - 1
        self.clamp, self.slope = layer.conv_clamp, 1.0 if layer.is_torgb else 0.2
        # Weights of unit variance, which the original computes in every call.
        energy = layer.weight.square().mean(dim=[1, 2, 3], keepdim=True)
        norm = energy.rsqrt() if self.demodulate else 1 / (layer.weight[0].numel()) ** 0.5
        self.weight = nn.Parameter(layer.weight * norm, requires_grad=False)
        self.register_buffer("input_gain", layer.magnitude_ema.rsqrt())
        gain = 1.0 if layer.is_torgb else 2**0.5
        self.up, self.down = _resamplings(layer, plan, gain)

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, force_fp32: bool = True, update_emas: bool = False
    ) -> torch.Tensor:
        """`x` `[N, I, H, W]`, `w` `[N, w_dim]` → `[N, O, H', W']`; the flags have no effect."""
        s = self.affine(w)
        x = F.conv2d(x * (s * self.input_gain)[:, :, None, None], self.weight, padding=self.padding)
        if self.demodulate:
            energy = self.weight.square().sum(dim=[2, 3])
            x = x * (s.square() @ energy.t() + 1e-8).rsqrt()[:, :, None, None]
        x = self.up(x + self.bias[:, None, None])
        if self.slope != 1:
            x = F.leaky_relu(x, self.slope)  # its gain is part of `up`
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        return self.down(x)


def _resamplings(
    layer: stylegan3.SynthesisLayer, plan: LayerPlan, gain: float
) -> tuple[nn.Module, nn.Module]:
    """Return the resampling before (times `gain`) and after the leaky ReLU of a layer."""
    fu, fd, up, down = layer.up_filter, layer.down_filter, layer.up_factor, layer.down_factor
    padding = as_padding(layer.padding)
    if fu is None and fd is None and not any(padding) and up == down == gain == 1:
        return nn.Identity(), nn.Identity()
    geometry = Geometry(up, down, padding, gain, 0.2, layer.conv_clamp, False)
    width = plan.source.shape.width + layer.conv_kernel - 1
    height = plan.source.shape.height + layer.conv_kernel - 1
    fine_w, fine_h = geometry.middle_size(width, height, fu)
    out_w, out_h = geometry.output_size(width, height, fu, fd)
    corner, sizes = (padding[0], padding[2]), ((width, fine_w), (height, fine_h))
    before = axes(fu, False, gain * up**2, up, 1, corner, *sizes, torch.float32)
    after = axes(fd, False, 1, 1, down, (0, 0), (fine_w, out_w), (fine_h, out_h), torch.float32)
    return Resampling(before, columns_first=False), Resampling(after, columns_first=True)


class PlainUpsamplingLayer(nn.Module):
    """An upsampling `sg3.networks.sg2_layers.SynthesisLayer` with the same weights."""

    def __init__(self, layer: sg2_layers.SynthesisLayer):
        super().__init__()
        self.layer = layer
        taps, kernel, up = len(layer.resample_filter), layer.weight.shape[2], layer.up
        size = layer.size
        # The full convolution of the strided one, and what `conv2d_resample` crops of it.
        full_w, full_h = (side - up + kernel for side in (size.width, size.height))
        pad = layer.padding + (taps + up - 1) // 2 - (kernel - 1)
        self.blur = Resampling(
            axes(
                layer.resample_filter, False, up**2, 1, 1, (pad, pad), (full_w, size.width),
                (full_h, size.height), torch.float32,
            ),
            columns_first=True,
        )  # fmt: skip

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, noise_mode: str = "const", gain: float = 1
    ) -> torch.Tensor:
        """`x` `[N, I, H, W]`, `w` `[N, w_dim]` → `[N, O, H·up, W·up]`."""
        layer = self.layer
        s = layer.styles(w)
        # A transposed convolution reverses the kernel, as this layer does.
        kernel = layer.weight.transpose(0, 1)
        x = self.blur(F.conv_transpose2d(x * s[:, :, None, None], kernel, stride=layer.up))
        energy = layer.weight.square().sum(dim=[2, 3])
        x = x * (s.square() @ energy.t() + 1e-8).rsqrt()[:, :, None, None]
        if layer.use_noise and noise_mode == "const":
            x = x + layer.noise_const * layer.noise_strength
        gain = ACTIVATIONS[layer.activation].gain * gain
        clamp = None if layer.conv_clamp is None else layer.conv_clamp * gain
        return bias_act(x, layer.bias, act=layer.activation, gain=gain, clamp=clamp)


def plain_generator(G: nn.Module) -> nn.Module:
    """Return a copy of `G` on the CPU in float32 that computes the same with plain operators."""
    G = copy.deepcopy(G).to("cpu", torch.float32).eval().requires_grad_(False)
    synthesis = G.get_submodule("synthesis")
    if isinstance(synthesis, stylegan3.SynthesisNetwork):
        for plan in synthesis.plans:
            _replace(synthesis, plan.name, lambda layer, plan=plan: PlainLayer(layer, plan))
    else:
        for block in synthesis.children():
            if isinstance(block, stylegan2.SynthesisBlock) and block.in_channels:
                _replace(block, "conv0", PlainUpsamplingLayer)
    return G


def _replace(parent: nn.Module, name: str, make: Callable[..., nn.Module]) -> None:
    setattr(parent, name, make(parent.get_submodule(name)))
