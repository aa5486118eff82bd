"""Reference implementation of `filtered_lrelu` in plain PyTorch; geometry common to all paths."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ops_cuda.fir import filter_size
from ops_cuda.upfirdn2d.reference import Resampling, run

#: Slope states stored for the gradient, one per element of the upsampled grid.
POSITIVE, NEGATIVE, CLAMPED = 0, 1, 2


@dataclass(frozen=True)
class Geometry:
    """Arguments of one call other than tensors; padding is (left, right, top, bottom).

    A linear call has an `offset` (x, y): it multiplies by stored slopes instead of applying the
    leaky ReLU, and its upsampled grid starts at `offset` on the grid of the states.
    """

    up: int
    down: int
    padding: tuple[int, int, int, int]
    gain: float
    slope: float
    clamp: float | None
    flip_filter: bool
    offset: tuple[int, int] | None = None

    def middle_size(self, width: int, height: int, fu) -> tuple[int, int]:
        """Return (width, height) of the upsampled grid, on which the leaky ReLU acts."""
        left, right, top, bottom = self.padding
        fu_w, fu_h = filter_size(fu)
        return (
            width * self.up + left + right - fu_w + 1,
            height * self.up + top + bottom - fu_h + 1,
        )

    def output_size(self, width: int, height: int, fu, fd) -> tuple[int, int]:
        """Return (width, height) of the result. Raises ValueError if the input is too small."""
        middle_w, middle_h = self.middle_size(width, height, fu)
        fd_w, fd_h = filter_size(fd)
        out_w = (middle_w - fd_w + self.down) // self.down
        out_h = (middle_h - fd_h + self.down) // self.down
        if middle_w < 1 or middle_h < 1 or out_w < 1 or out_h < 1:
            raise ValueError(
                f"x: got {width}x{height} pixels, expected enough for up={self.up}, "
                f"down={self.down}, padding={self.padding} and filters of "
                f"{filter_size(fu)} and {fd_w, fd_h} taps; pad more or use a larger image"
            )
        return out_w, out_h

    def transposed(self, x_shape: torch.Size, fu, fd) -> Geometry:
        """Return the linear call that maps gradients of the output to gradients of the input."""
        height, width = x_shape[-2:]
        out_w, out_h = self.output_size(width, height, fu, fd)
        fu_w, fu_h = filter_size(fu)
        fd_w, fd_h = filter_size(fd)
        left, _, top, _ = self.padding
        offset_x, offset_y = self.offset or (0, 0)
        # The adjoint of a convolution is the correlation, padded by taps − 1 − padding. Upsampling
        # multiplies by up², so the gain swaps these factors.
        padding = (
            fu_w - 1 + fd_w - 1 - left,
            width * self.up - out_w * self.down + left - (self.up - 1),
            fu_h - 1 + fd_h - 1 - top,
            height * self.up - out_h * self.down + top - (self.up - 1),
        )
        return Geometry(
            up=self.down,
            down=self.up,
            padding=padding,
            gain=self.gain * self.up**2 / self.down**2,
            slope=self.slope,
            clamp=None,
            flip_filter=not self.flip_filter,
            offset=(offset_x - (fu_w - 1) + left, offset_y - (fu_h - 1) + top),
        )


def forward(x, fu, fd, b, geometry: Geometry, scale=None) -> torch.Tensor:
    """Scale, add the bias, upsample, apply the leaky ReLU with gain and clamp, downsample."""
    x = upsampled(_scaled_and_biased(x, scale, b), fu, geometry)
    x = torch.where(x < 0, x * geometry.slope, x) * geometry.gain
    if geometry.clamp is not None:
        x = x.clamp(-geometry.clamp, geometry.clamp)
    return downsampled(x, fd, geometry)


def _scaled_and_biased(x, scale, b) -> torch.Tensor:
    """Return `x` times `scale` `[N, C]` plus `b` `[C]`; None skips a step."""
    if scale is not None:
        x = x * scale.to(x.dtype)[:, :, None, None]
    return x if b is None else x + b.to(x.dtype)[:, None, None]


def upsampled(x, fu, geometry: Geometry) -> torch.Tensor:
    """Upsample and pad `x`; keeps the brightness."""
    up = (geometry.up, geometry.up)
    flip, gain = geometry.flip_filter, float(geometry.up**2)
    return run(x, fu, Resampling(up, (1, 1), geometry.padding, flip, gain))


def downsampled(x, fd, geometry: Geometry) -> torch.Tensor:
    """Downsample `x`."""
    down = (geometry.down, geometry.down)
    return run(x, fd, Resampling((1, 1), down, (0, 0, 0, 0), geometry.flip_filter, 1.0))


def forward_with_states(
    x, fu, fd, b, geometry: Geometry, scale=None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`forward`, and its slope states as uint8 `[N, C, H_middle, W_middle]`."""
    x = upsampled(_scaled_and_biased(x, scale, b), fu, geometry)
    states = (x < 0).to(torch.uint8)
    x = torch.where(states.bool(), x * geometry.slope, x) * geometry.gain
    if geometry.clamp is not None:
        states.masked_fill_(x.abs() > geometry.clamp, CLAMPED)
        x = x.clamp(-geometry.clamp, geometry.clamp)
    y = downsampled(x, fd, geometry)
    return y, states


def states_shape(x_shape, fu, fd, geometry: Geometry) -> tuple[int, ...]:
    """Return the shape of the states of `forward_with_states`: one byte per element."""
    n, c, height, width = x_shape
    middle_w, middle_h = geometry.middle_size(width, height, fu)
    return n, c, middle_h, middle_w


def linear(x, fu, fd, states: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Upsample, multiply by the slope of each stored state, downsample."""
    x = upsampled(x, fu, geometry)
    x = x * _slopes_on_grid(states, x.shape, geometry, x.dtype)
    return downsampled(x, fd, geometry)


def _slopes_on_grid(states, shape, geometry: Geometry, dtype) -> torch.Tensor:
    """Return slopes `[N, C, H, W]` on the grid that starts at `geometry.offset` of the stored one.

    Elements outside the stored grid get the positive slope; only zeros are multiplied there.
    """
    # By state: positive, negative, clamped.
    table = torch.tensor([1.0, geometry.slope, 0.0], dtype=dtype, device=states.device)
    slopes = table[states.long()] * geometry.gain
    height, width = shape[-2:]
    assert geometry.offset is not None, "a linear call has an offset"
    offset_x, offset_y = geometry.offset
    pads = [
        -offset_x,
        offset_x + width - states.shape[3],
        -offset_y,
        offset_y + height - states.shape[2],
    ]
    return torch.nn.functional.pad(slopes, pads, value=geometry.gain)
