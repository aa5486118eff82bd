"""Reference implementation of `upfirdn2d` in plain PyTorch; geometry common to all paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from ops_cuda.fir import filter_size


@dataclass(frozen=True)
class Resampling:
    """Arguments of one call other than tensors. Factors are (x, y), padding is (l, r, t, b)."""

    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]
    flip_filter: bool
    gain: float

    @classmethod
    def of(
        cls,
        up: Sequence[int],
        down: Sequence[int],
        padding: Sequence[int],
        flip_filter: bool,
        gain: float,
    ) -> Resampling:
        """From the lists that custom operators pass."""
        (up_x, up_y), (down_x, down_y), (left, right, top, bottom) = up, down, padding
        return cls((up_x, up_y), (down_x, down_y), (left, right, top, bottom), flip_filter, gain)

    def output_size(self, width: int, height: int, f: torch.Tensor | None) -> tuple[int, int]:
        """Return (width, height) of the result. Raises ValueError if the input is too small."""
        left, right, top, bottom = self.padding
        fw, fh = filter_size(f)
        padded_w = width * self.up[0] + left + right
        padded_h = height * self.up[1] + top + bottom
        if padded_w < fw or padded_h < fh:
            raise ValueError(
                f"x: got {padded_w}x{padded_h} pixels after padding, "
                f"expected at least the filter's {fw}x{fh}; pad more or use a larger image"
            )
        return (padded_w - fw) // self.down[0] + 1, (padded_h - fh) // self.down[1] + 1

    def transposed(self, x_shape: torch.Size, f: torch.Tensor | None) -> Resampling:
        """Return the adjoint, which maps gradients of the output to those of an `x_shape` input."""
        height, width = x_shape[-2:]
        out_w, out_h = self.output_size(width, height, f)
        fw, fh = filter_size(f)
        left, _, top, _ = self.padding
        # Convolution becomes correlation and the factors swap. Padding on the right also covers the
        # samples that decimation dropped.
        padding = (
            fw - left - 1,
            width * self.up[0] - out_w * self.down[0] + left - self.up[0] + 1,
            fh - top - 1,
            height * self.up[1] - out_h * self.down[1] + top - self.up[1] + 1,
        )
        return Resampling(self.down, self.up, padding, not self.flip_filter, self.gain)


def upfirdn2d_reference(x: torch.Tensor, f: torch.Tensor | None, spec: Resampling) -> torch.Tensor:
    """Return `upfirdn2d` step by step as specified: `[N, C, H, W]` → `[N, C, H', W']`.

    Differentiable, in any dtype. It stores the zeros of the upsampled image; `run` does not.
    """
    channels = x.shape[1]
    up_x, up_y = spec.up
    if spec.up != (1, 1):
        x = F.pad(rearrange(x, "n c h w -> n c h 1 w 1"), [0, up_x - 1, 0, 0, 0, up_y - 1])
        x = rearrange(x, "n c h up_y w up_x -> n c (h up_y) (w up_x)")
    x = F.pad(x, list(spec.padding))
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    # A separable filter is applied twice: each axis takes the square root of the gain.
    f = (f * spec.gain ** (f.ndim / 2)).to(x.dtype)
    taps = f if spec.flip_filter else f.flip(list(range(f.ndim)))
    if taps.ndim == 2:
        kernels = [repeat(taps, "kh kw -> c 1 kh kw", c=channels)]
        strides = [(spec.down[1], spec.down[0])]
    else:
        kernels = [repeat(taps, f"k -> c 1 {axes}", c=channels) for axes in ("1 k", "k 1")]
        strides = [(1, spec.down[0]), (spec.down[1], 1)]
    for kernel, stride in zip(kernels, strides, strict=True):
        x = F.conv2d(x, kernel, stride=stride, groups=channels)
    return x


def run(x: torch.Tensor, f: torch.Tensor | None, spec: Resampling) -> torch.Tensor:
    """Return the values of `upfirdn2d_reference` without storing the zeros of the upsampled image.

    The reference path, for any device and dtype: strided depthwise convolutions and their
    transposes, one per axis for a separable filter.
    """
    if x.numel() == 0:
        width, height = spec.output_size(x.shape[3], x.shape[2], f)
        return x.new_zeros([*x.shape[:2], height, width])
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    if f.ndim == 2:
        return _filter_2d(x, f, spec)
    (up_x, up_y), (down_x, down_y), (left, right, top, bottom) = spec.up, spec.down, spec.padding
    flip, gain = spec.flip_filter, spec.gain**0.5
    along_rows = Resampling((up_x, 1), (down_x, 1), (left, right, 0, 0), flip, gain)
    down_columns = Resampling((1, up_y), (1, down_y), (0, 0, top, bottom), flip, gain)
    return _filter_2d(_filter_2d(x, f[None, :], along_rows), f[:, None], down_columns)


def _filter_2d(x: torch.Tensor, f: torch.Tensor, spec: Resampling) -> torch.Tensor:
    """`run` for a filter with two axes."""
    channels, (down_x, down_y) = x.shape[1], spec.down
    f = (f * spec.gain).to(x.dtype)
    taps = (f if spec.flip_filter else f.flip([0, 1])).expand(channels, 1, *f.shape)
    if spec.up != (1, 1):
        x = _transposed_convolution(x, taps, spec)
        return x if spec.down == (1, 1) else x[:, :, ::down_y, ::down_x]
    left, right, top, bottom = spec.padding
    # Symmetric padding inside the convolution saves a copy of the image.
    symmetric = left == right >= 0 and top == bottom >= 0
    x = x if symmetric else F.pad(x, [left, right, top, bottom])
    padding = (top, left) if symmetric else 0
    return F.conv2d(x, taps, stride=(down_y, down_x), padding=padding, groups=channels)


def _transposed_convolution(x, taps, spec: Resampling) -> torch.Tensor:
    """Upsample, pad and filter by a transposed convolution, cropped or padded to size."""
    (up_x, up_y), (left, right, top, bottom) = spec.up, spec.padding
    fh, fw = taps.shape[2:]
    # It returns the full convolution, taps − 1 more pixels on each side, but without the up − 1
    # zeros after the last sample.
    cut_x, longer_x, pads_x = _crop(fw - 1 - left, fw - up_x - right, up_x)
    cut_y, longer_y, pads_y = _crop(fh - 1 - top, fh - up_y - bottom, up_y)
    x = F.conv_transpose2d(
        x,
        taps.flip([2, 3]),
        stride=(up_y, up_x),
        padding=(cut_y, cut_x),
        output_padding=(longer_y, longer_x),
        groups=x.shape[1],
    )
    return F.pad(x, [*pads_x, *pads_y]) if any(pads_x + pads_y) else x


def _crop(before: int, after: int, up: int) -> tuple[int, int, tuple[int, int]]:
    """How to drop `before` and `after` elements (negative: add zeros) of a transposed convolution.

    Returns its `padding`, its `output_padding`, and the padding that remains to be applied.
    """
    cut = max(0, before)
    longer = cut - max(0, after)
    if not 0 <= longer < up:
        cut, longer = max(0, min(before, after)), 0
    return cut, longer, (cut - before, cut - longer - after)
