"""StyleGAN3's modulated convolution as one dense convolution between two channel scalings."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ops_cuda import recycled

CPU_FLOAT = ("cpu", torch.float32)
FEW_CHANNELS = 4


class _ScaleChannels(torch.autograd.Function):
    """`x·s` `[N, C, H, W]`; the gradient of `s` is a product of matrices, without a temporary."""

    @staticmethod
    def forward(ctx, x, s):
        ctx.save_for_backward(x, s)
        return x * s[:, :, None, None]

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved_tensors
        dx = dy * s[:, :, None, None] if ctx.needs_input_grad[0] else None
        ds = torch.einsum("nchw,nchw->nc", dy, x) if ctx.needs_input_grad[1] else None
        return dx, ds


class _ScaledWeights(torch.autograd.Function):
    """Convolution of one sample with `w·s`: no scaled copy of `x`, which is larger than `w`.

    The gradient of `s` comes from the one of `x`, so frozen weights cost nothing here either.
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
            around = ([1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], 1)
            only_input = [True, False, False]
            dx, _, _ = torch.ops.aten.convolution_backward(dy, x, w, None, *around, only_input)
        ds = torch.einsum("nchw,nchw->nc", dx, x) if ctx.needs_input_grad[2] else None
        factors = s[:, :, None, None]
        # Nobody else has seen this gradient: scale it where it is, unless autograd looks on.
        dx = dx * factors if torch.is_grad_enabled() else dx.mul_(factors)
        return dx, None, ds, None


def _is_product(x: torch.Tensor, w: torch.Tensor, padding: int) -> bool:
    """Whether a 1×1 convolution of one sample had better be a product of matrices.

    The convolution itself is quicker, but for a few channels, and puts its result in fresh memory.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not torch.Tensor:
        return False
    if w.shape[2:] != (1, 1) or padding or (x.device.type, x.dtype) != CPU_FLOAT:
        return False
    return recycled.RECYCLER.needed or min(w.shape[:2]) <= FEW_CHANNELS


def _product(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`matrix` `[O, I]` times `x` `[1, I, H, W]` → `[1, O, H, W]`, in recycled memory."""
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
    """Convolve `x` `[N, I, H, W]` with weights `w` `[O, I, k, k]` scaled by styles `s` `[N, I]`.

    The per-sample weights `w·s·d` (REFERENCE.md §2.8) factor into scales of the inputs (styles and
    `input_gain`, broadcastable to `[N, I]`) and of the outputs (demodulation `d` `[N, O]`), so
    the convolution itself is dense and shared by the batch: no grouped convolution.
    Returns `[N, O, H + 2·padding − k + 1, …]` in the dtype of `x`. Raises ValueError on shapes
    that do not fit.
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
    """`modulated_conv2d` without the last step: the convolution, and its factors `[N, O]`.

    What follows may be able to scale its input for nothing (`filtered_lrelu`). The factors are
    None without demodulation. `conv_dtype`: of the convolution alone, if not that of `x`.
    """
    if x.ndim != 4 or w.ndim != 4 or s.shape != x.shape[:2] or w.shape[1] != x.shape[1]:
        raise ValueError(
            f"x, w, s: got shapes {tuple(x.shape)}, {tuple(w.shape)}, {tuple(s.shape)}, "
            "expected [N, I, H, W], [O, I, k, k], [N, I]"
        )
    scale = None
    if demodulate:
        s = s * s.square().mean().rsqrt()
        energy = torch.einsum("oikl,oikl->oi", w, w)
        normalize = (energy.sum(1) / w[0].numel()).rsqrt()  # [O]: weights of unit variance
        scale = (s.square() @ (energy * normalize[:, None].square()).t() + 1e-8).rsqrt()
        if x.dtype == torch.float32:
            scale = scale * normalize  # the same product, without a copy of the weights
        else:
            w = w * normalize[:, None, None, None]
        scale = scale.to(x.dtype)
    if input_gain is not None:
        s = s * input_gain
    dtype, conv_dtype = x.dtype, conv_dtype or x.dtype
    s, frozen = s.to(dtype), not (w.requires_grad and torch.is_grad_enabled())
    if len(x) == 1 and frozen and dtype == conv_dtype == w.dtype and x.numel() > w.numel():
        return _ScaledWeights.apply(x, w, s, padding), scale
    x = _ScaleChannels.apply(x, s).to(conv_dtype)
    return F.conv2d(x, w.to(conv_dtype), padding=padding).to(dtype), scale
