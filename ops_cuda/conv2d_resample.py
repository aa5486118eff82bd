"""`conv2d_resample`: 2-D convolution combined with up- or downsampling (REFERENCE.md §1.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange

from ops_cuda.fir import as_padding, filter_size
from ops_cuda.upfirdn2d import upfirdn2d


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
) -> torch.Tensor:
    """Upsample `x`, convolve with `w`, downsample (REFERENCE.md §1.6).

    The steps run in whichever order is fastest; the result does not depend on it.

    Args:
        x: `[N, I, H, W]`.
        w: weights `[O, I/groups, k, k]`.
        f: low-pass filter of both resampling steps, or None.
        up: upsampling factor.
        down: downsampling factor.
        padding: relative to the upsampled image; a number, (x, y) or (left, right, top, bottom).
        groups: number of convolution groups.
        flip_weight: True correlates (as `torch.conv2d`), False convolves.

    Returns:
        `[N, O, H', W']`.
    """
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            f"x, w: got shapes {tuple(x.shape)}, {tuple(w.shape)}, expected [N, I, H, W], "
            "[O, I/groups, k, k]"
        )
    fw, fh = filter_size(f)
    kernel_h, kernel_w = w.shape[2:]
    left, right, top, bottom = as_padding(padding)
    # Extra padding that centres the resampling filter: sizes become H·up/down exactly.
    if up > 1:
        left, right = left + (fw + up - 1) // 2, right + (fw - up) // 2
        top, bottom = top + (fh + up - 1) // 2, bottom + (fh - up) // 2
    if down > 1:
        left, right = left + (fw - down + 1) // 2, right + (fw - down) // 2
        top, bottom = top + (fh - down + 1) // 2, bottom + (fh - down) // 2
    pads = [left, right, top, bottom]
    pointwise = kernel_h == 1 and kernel_w == 1
    if not flip_weight:
        w = w.flip([2, 3])

    # A 1×1 convolution commutes with resampling: do it where the image is smallest.
    if pointwise and down > 1 and up == 1:
        return F.conv2d(upfirdn2d(x, f, down=down, padding=pads), w, groups=groups)
    if pointwise and up > 1 and down == 1:
        return upfirdn2d(F.conv2d(x, w, groups=groups), f, up=up, padding=pads, gain=up**2)
    # Low-pass first, then convolve only at the pixels that remain.
    if down > 1 and up == 1:
        return F.conv2d(upfirdn2d(x, f, padding=pads), w, stride=down, groups=groups)
    if up > 1:
        x = _upsampling_conv(x, w, f, up, pads, groups)
    elif left == right and top == bottom and left >= 0 and top >= 0:
        x = F.conv2d(x, w, padding=(top, left), groups=groups)
    else:
        x = F.conv2d(F.pad(x, pads), w, groups=groups)
    return upfirdn2d(x, f, down=down) if down > 1 else x


def _upsampling_conv(x, w, f, up, pads, groups):
    """Upsample by a strided transposed convolution, then apply `f`.

    Convolution and filter commute, so the zeros of the upsampled image are never multiplied.
    """
    kernel_h, kernel_w = w.shape[2:]
    w = rearrange(w, "(g o) i kh kw -> (g i) o kh kw", g=groups)
    # A transposed convolution returns the full convolution: k − 1 more pixels on each side, but
    # without the up − 1 zeros that zero insertion leaves after the last sample.
    left, right, top, bottom = pads
    grown = [
        left - (kernel_w - 1),
        right - (kernel_w - 1) + up - 1,
        top - (kernel_h - 1),
        bottom - (kernel_h - 1) + up - 1,
    ]
    # PyTorch's transposed convolution reverses the kernel: flip it to correlate.
    x = F.conv_transpose2d(x, w.flip([2, 3]), stride=up, groups=groups)
    return upfirdn2d(x, f, padding=grown, gain=up**2)
