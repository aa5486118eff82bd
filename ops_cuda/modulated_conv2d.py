"""StyleGAN3's modulated convolution as one dense convolution between two channel scalings."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def modulated_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    padding: int = 0,
    input_gain: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve `x` `[N, I, H, W]` with weights `w` `[O, I, k, k]` scaled by styles `s` `[N, I]`.

    The per-sample weights `w·s·d` (FACTS 2.8) factor into scales of the inputs (styles and
    `input_gain`, broadcastable to `[N, I]`) and of the outputs (demodulation `d` `[N, O]`), so
    the convolution itself is dense and shared by the batch: no grouped convolution.
    Returns `[N, O, H + 2·padding − k + 1, …]` in the dtype of `x`. Raises ValueError on shapes
    that do not fit.
    """
    if x.ndim != 4 or w.ndim != 4 or s.shape != x.shape[:2] or w.shape[1] != x.shape[1]:
        raise ValueError(
            f"x, w, s: got shapes {tuple(x.shape)}, {tuple(w.shape)}, {tuple(s.shape)}, "
            "expected [N, I, H, W], [O, I, k, k], [N, I]"
        )
    demodulation = None
    if demodulate:
        w = w * w.square().mean([1, 2, 3], keepdim=True).rsqrt()
        s = s * s.square().mean().rsqrt()
        energy = w.square().sum([2, 3])  # [O, I]
        demodulation = (s.square() @ energy.t() + 1e-8).rsqrt()  # [N, O]
    if input_gain is not None:
        s = s * input_gain
    x = x * s.to(x.dtype)[:, :, None, None]
    x = F.conv2d(x, w.to(x.dtype), padding=padding)
    if demodulation is not None:
        x = x * demodulation.to(x.dtype)[:, :, None, None]
    return x
