"""StyleGAN3's modulated convolution: one dense convolution between two channel scalings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import einsum

from ops_cuda import recycled

CPU_FLOAT = ("cpu", torch.float32)
#: Up to this many input or output channels a matrix product beats oneDNN's 1×1 convolution.
FEW_CHANNELS = 4


class _ScaleChannels(torch.autograd.Function):
    """`x·s` `[N, C, H, W]`. The gradient of `s` is one contraction, without a temporary."""

    @staticmethod
    def forward(ctx, x, s):
        ctx.save_for_backward(x, s)
        return x * s[:, :, None, None]

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved_tensors
        dx = dy * s[:, :, None, None] if ctx.needs_input_grad[0] else None
        ds = einsum(dy, x, "n c h w, n c h w -> n c") if ctx.needs_input_grad[1] else None
        return dx, ds


class _ScaledWeights(torch.autograd.Function):
    """Convolution of a single sample with frozen weights, as `conv(x, w·s)`.

    Scaling `w` instead of `x` avoids a copy of the larger tensor. The gradient of `s` follows from
    the gradient of `x`, so no weight gradient is computed.
    """

    @staticmethod
    def forward(ctx, x, w, s, padding):
        ctx.save_for_backward(x, w, s)
        ctx.padding = padding
        scaled = w * s[:, :, None, None]
        if _is_product(x, w, padding):
            return _product(scaled.flatten(1), x)
        return F.conv2d(x, scaled, padding=padding)

    @staticmethod
    def backward(ctx, dy):
        x, w, s = ctx.saved_tensors
        if _is_product(dy, w, ctx.padding):
            dx = _product(w.flatten(1).t(), dy)
        else:
            geometry = ([1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], 1)
            only_input = [True, False, False]
            dx, _, _ = torch.ops.aten.convolution_backward(dy, x, w, None, *geometry, only_input)
        ds = einsum(dx, x, "n c h w, n c h w -> n c") if ctx.needs_input_grad[2] else None
        factors = s[:, :, None, None]
        # `dx` was allocated here: scale it in place unless autograd records this backward pass.
        dx = dx * factors if torch.is_grad_enabled() else dx.mul_(factors)
        return dx, None, ds, None


def _is_product(x: torch.Tensor, w: torch.Tensor, padding: int) -> bool:
    """Whether to compute a 1×1 convolution of one sample as a matrix product.

    The convolution is faster by itself except for a few channels, but it cannot write into
    recycled memory, which matters more where freed blocks go back to the system.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not torch.Tensor:
        return False
    if w.shape[2:] != (1, 1) or padding or (x.device.type, x.dtype) != CPU_FLOAT:
        return False
    return recycled.RECYCLER.needed or min(w.shape[:2]) <= FEW_CHANNELS


def _product(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `matrix` `[O, I]` times `x` `[1, I, H, W]` as `[1, O, H, W]`, in recycled memory."""
    y = recycled.empty([1, len(matrix), *x.shape[2:]], x.dtype)
    torch.mm(matrix, x.reshape(len(x[0]), -1), out=y.view(len(matrix), -1))
    return y


def modulated_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    padding: int = 0,
    input_gain: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve `x` with weights scaled per sample by styles, and demodulate (REFERENCE.md §2.8).

    The paper multiplies the weights and runs one convolution per sample (a grouped convolution).
    The per-sample weights `w·s·d` factor into a scale of the inputs (styles `s`, `input_gain`) and
    a scale of the outputs (demodulation `d` `[N, O]`), so that one dense convolution with shared
    weights serves the whole batch.

    Args:
        x: `[N, I, H, W]`.
        w: weights `[O, I, k, k]`.
        s: styles `[N, I]`.
        demodulate: normalize weights and styles, and scale each output to unit expected variance.
        padding: zero padding on each side.
        input_gain: broadcastable to `[N, I]`, or None.

    Returns:
        `[N, O, H + 2·padding − k + 1, W + 2·padding − k + 1]` in the dtype of `x`.

    Raises:
        ValueError: the shapes do not match.
    """
    x, scale = conv2d_before_scaling(x, w, s, demodulate, padding, input_gain)
    return x if scale is None else _ScaleChannels.apply(x, scale)


def conv2d_before_scaling(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    padding: int = 0,
    input_gain: torch.Tensor | None = None,
    conv_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`modulated_conv2d` without the final output scaling, which `filtered_lrelu` does for free.

    Args:
        x, w, s, demodulate, padding, input_gain: as for `modulated_conv2d`.
        conv_dtype: dtype of the convolution alone; None: the dtype of `x`.

    Returns:
        The convolution `[N, O, H', W']` and its scale `[N, O]`; None without demodulation.

    Raises:
        ValueError: the shapes do not match.
    """
    if x.ndim != 4 or w.ndim != 4 or s.shape != x.shape[:2] or w.shape[1] != x.shape[1]:
        raise ValueError(
            f"x, w, s: got shapes {tuple(x.shape)}, {tuple(w.shape)}, {tuple(s.shape)}, "
            "expected [N, I, H, W], [O, I, k, k], [N, I]"
        )
    scale = None
    if demodulate:
        # StyleGAN3 normalizes styles over the batch and weights per output channel first. Neither
        # changes the demodulated result beyond the epsilon; both keep float16 from overflowing.
        s = s * s.square().mean().rsqrt()
        energy = einsum(w, w, "o i kh kw, o i kh kw -> o i")
        normalize = (energy.sum(1) / w[0].numel()).rsqrt()  # [O]: weights of unit variance
        scale = (s.square() @ (energy * normalize[:, None].square()).t() + 1e-8).rsqrt()
        if x.dtype == torch.float32:
            scale = scale * normalize  # the same result without a scaled copy of the weights
        else:
            w = w * normalize[:, None, None, None]
        scale = scale.to(x.dtype)
    if input_gain is not None:
        s = s * input_gain
    dtype, conv_dtype = x.dtype, conv_dtype or x.dtype
    s, frozen = s.to(dtype), not (w.requires_grad and torch.is_grad_enabled())
    # Scale the smaller tensor. Several samples cannot share scaled weights.
    if len(x) == 1 and frozen and dtype == conv_dtype == w.dtype and x.numel() > w.numel():
        return _ScaledWeights.apply(x, w, s, padding), scale
    x = _ScaleChannels.apply(x, s).to(conv_dtype)
    return F.conv2d(x, w.to(conv_dtype), padding=padding).to(dtype), scale
