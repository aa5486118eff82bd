"""PhaseResampling as convolutions with small kernels that never see a grid of zeros.

A fine image is kept as its phases: P×P coarse images, of which (i, j) has every P-th column from
i and every P-th row from j on. Upsampling computes the phases of its result, a pointwise function
acts on each, and downsampling adds them up: nothing is interleaved in between. Products with banded
matrices, the other way without a grid of zeros, multiply five to ten times as many zeros as taps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ops_cuda.banded import SMALLEST_TERM
from ops_cuda.planes import separable_terms


@dataclass(frozen=True)
class AxisTaps:
    """Which taps of a filter connect phases: output q at m sums phase p at m + first + d.

    Attributes:
        index: tap + 1 `[Q, P, D]`, or 0 for none.
        first: offset of the first tap.
    """

    index: np.ndarray
    first: int

    @classmethod
    def of(cls, taps: int, up: int, down: int, corner: int, phases: int) -> AxisTaps:
        """Return the taps with which outputs o read inputs i: `k = i·up + corner − o·down`.

        `phases` is the number P of the input; the output has `P·up/down`.
        """
        period = phases * up
        found = {}
        for q in range(period // down):
            for p in range(phases):
                for tap in range(taps):
                    offset, rest = divmod(tap - corner - p * up + q * down, period)
                    if rest == 0:
                        found[q, p, offset] = tap + 1
        first = min(offset for _, _, offset in found)
        index = np.zeros(np.max([(q, p, d - first) for q, p, d in found], 0) + 1, np.int64)
        for (q, p, offset), tap in found.items():
            index[q, p, offset - first] = tap
        return cls(index, first)

    def spare(self, size: int, out: int) -> int:
        """Return how many samples at both ends of an axis of `size` no one of `out` reads."""
        return max(0, min(self.first, size - (self.first + out + self.index.shape[2] - 1)))

    def fitted(self, size: int, out: int) -> tuple[np.ndarray, int]:
        """Widen the kernels by zeros until equal padding at both ends gives `out` samples.

        Returns the index `[Q, P, K]` and the padding.
        """
        taps = self.index.shape[2]
        padding = max(0, -self.first, self.first + taps - 1 + out - size)
        index = np.zeros((*self.index.shape[:2], size + 2 * padding - out + 1), np.int64)
        index[:, :, self.first + padding :][:, :, :taps] = self.index
        return index, padding


@dataclass(frozen=True)
class Pass:
    """One convolution of all phases.

    Attributes:
        kernel: `[Qx, Qy, Px, Py, Ky, Kx]`, float32.
        padding: zeros at both ends of a column and of a row.
    """

    kernel: torch.Tensor
    padding: tuple[int, int]

    @classmethod
    def of(cls, kernel: np.ndarray, rows: int, columns: int) -> Pass:
        """Return a pass with these zeros above and below, left and right."""
        return cls(torch.from_numpy(kernel).float(), (rows, columns))

    def grouped(self) -> tuple[torch.Tensor, int]:
        """Return a weight `[outputs, inputs, Ky, Kx]` and how often it is repeated per channel."""
        own, columns = self.kernel[0, :, 0], torch.eye(self.kernel.shape[2])
        # Where no column of phases needs another one, each is a group of its own.
        if torch.equal(torch.einsum("xw,yphk->xywphk", columns, own), self.kernel):
            return own.clone(), len(columns)
        return self.kernel.flatten(2, 3).flatten(0, 1), 1


@dataclass(frozen=True)
class PhaseResampling:
    """What a filter does to an image in phases.

    Attributes:
        f: filter `[taps]`, or `[taps, taps]` as a convolution; None is the identity.
        gain: overall gain.
        up, down: factors; one of them is 1.
        phases: P of the input.
        corner: zeros (left, top), relative to the upsampled image.
        size, out: (width, height) of a phase of the input and of the output.
    """

    f: torch.Tensor | None
    gain: float
    up: int
    down: int
    phases: int
    corner: tuple[int, int]
    size: tuple[int, int]
    out: tuple[int, int]

    def axes(self) -> list[AxisTaps]:
        """Return the taps along x and y."""
        taps = 1 if self.f is None else len(self.f)
        return [AxisTaps.of(taps, self.up, self.down, each, self.phases) for each in self.corner]

    def without_spare(self) -> tuple[PhaseResampling, int]:
        """Return the same for an input without a margin that is never read, and that margin."""
        spare = min(
            axis.spare(size, out)
            for axis, size, out in zip(self.axes(), self.size, self.out, strict=True)
        )
        left, top = (each + spare * self.up for each in self.corner)
        size = self.size[0] - 2 * spare, self.size[1] - 2 * spare
        return replace(self, corner=(left, top), size=size), spare

    def passes(self, separable: bool) -> list[Pass]:
        """Return a pass along each axis, or one for both where the filter has two dimensions.

        With `separable`, such a filter is decomposed too. Between its passes, every term has
        phases of its own.
        """
        (x, pad_x), (y, pad_y) = (
            axis.fitted(size, out)
            for axis, size, out in zip(self.axes(), self.size, self.out, strict=True)
        )
        if self.f is not None and self.f.ndim == 2 and not separable:
            f = np.pad(self.f.flip(0, 1).double().numpy() * self.gain, (1, 0))
            rows, columns = y[None, :, None, :, :, None], x[:, None, :, None, None, :]
            return [Pass.of(f[rows, columns], pad_y, pad_x)]
        terms = separable_terms(self.f, False, self.gain, SMALLEST_TERM[torch.float32])
        along_x, along_y = (
            np.pad(taps, ((0, 0), (1, 0)))[:, index]
            for taps, index in zip(terms, (x, y), strict=True)
        )
        count, q, p = along_x.shape[:3]
        # The smaller image comes between the passes.
        if self.up > 1 and count == 1:
            keep = np.eye(q)
            return [
                Pass.of(along_x[0][:, None, :, None, None, :], 0, pad_x),
                Pass.of(np.einsum("xw,ypk->xywpk", keep, along_y[0])[..., None], pad_y, 0),
            ]
        len_x, len_y = along_x.shape[3], along_y.shape[3]
        down_y = np.einsum("xw,typk->xtywpk", np.eye(p), along_y).reshape(p, -1, p, p, len_y, 1)
        down_x = np.einsum("txpk,yz->xyptzk", along_x, np.eye(q)).reshape(q, q, p, -1, 1, len_x)
        return [Pass.of(down_y, pad_y, 0), Pass.of(down_x, 0, pad_x)]


class Depthwise(nn.Module):
    """Resampling of separate phases by depthwise convolutions: the fastest form in onnxruntime.

    Args:
        resampling: what to compute.
        channels: C.
    """

    def __init__(self, resampling: PhaseResampling, channels: int):
        super().__init__()
        self.channels = channels
        self.paddings: list[tuple[int, int]] = []
        self.inputs: list[list[list[int]]] = []
        for number, each in enumerate(resampling.passes(separable=False)):
            kernels = each.kernel.flatten(2, 3).flatten(0, 1)
            self.paddings.append(each.padding)
            self.inputs.append([row.abs().amax([1, 2]).nonzero()[:, 0].tolist() for row in kernels])
            for q, row in enumerate(self.inputs[-1]):
                for p in row:
                    self.register_buffer(f"kernel{number}_{q}_{p}", kernels[q, p].clone())

    def forward(self, phases: list[torch.Tensor]) -> list[torch.Tensor]:
        """P² images `[N, C, H, W]`, all rows of a column after each other → Q² images."""
        for number, (inputs, padding) in enumerate(zip(self.inputs, self.paddings, strict=True)):
            results = []
            for q, row in enumerate(inputs):
                weights = [getattr(self, f"kernel{number}_{q}_{p}") for p in row]
                parts = [
                    F.conv2d(
                        phases[p],
                        weight.expand(self.channels, 1, -1, -1),
                        padding=padding,
                        groups=self.channels,
                    )
                    for p, weight in zip(row, weights, strict=True)
                ]
                results.append(sum(parts[1:], parts[0]))
            phases = results
        return phases


class Grouped(nn.Module):
    """Resampling by two grouped convolutions, with phases as channels: the fastest in browsers.

    Args:
        resampling: what to compute.
        channels: C.
    """

    def __init__(self, resampling: PhaseResampling, channels: int):
        super().__init__()
        self.channels, self.passes = channels, []
        for number, each in enumerate(resampling.passes(separable=True)):
            weight, repeats = each.grouped()
            self.passes.append((repeats * channels, each.padding))
            self.register_buffer(f"kernel{number}", weight)

    def forward(self, phases: list[torch.Tensor]) -> list[torch.Tensor]:
        """One image `[N, C·P², H, W]` → one image `[N, C·Q², H', W']`."""
        (x,) = phases
        for number, (groups, padding) in enumerate(self.passes):
            weight = getattr(self, f"kernel{number}").expand(groups, -1, -1, -1, -1).flatten(0, 1)
            x = F.conv2d(x, weight, padding=padding, groups=groups)
        return [x]


def interleaved(phases: list[torch.Tensor], channels: int) -> torch.Tensor:
    """Return the image `[N, C, H·Q, W·Q]` whose phases these are, in either form."""
    if phases[0].shape[1] > channels:
        phases = list(phases[0].unflatten(1, (channels, -1)).unbind(2))
    step = round(len(phases) ** 0.5)
    if step == 1:
        return phases[0]
    rows = [torch.stack(phases[y::step], -1).flatten(-2) for y in range(step)]
    return torch.stack(rows, 3).flatten(2, 3)


#: Forms of the filters in exported files, by name.
Form = type[Depthwise] | type[Grouped]
FORMS: dict[str, Form] = {"depthwise": Depthwise, "grouped": Grouped}
