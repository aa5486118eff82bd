"""EQ-T and EQ-R: image transforms and PSNR (StyleGAN3, App. E; REFERENCE.md §6.3).

The transforms take images `[N, C, H, W]` and return `(moved, mask)` of the same shape; the mask
is 1 where the result depends only on pixels of the image. Shifts are in pixels, to the right and
down; angles in radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from ops_cuda import filter2d, upfirdn2d, upsample2d
from sg3.data.base import TrainingImages
from sg3.devices import precise_device
from sg3.metrics.sampling import sample_labels

LANCZOS = 3  # half-width of the window, in samples
FILTER_HALF_WIDTH = 6  # of the rotation filters, in samples
SINC_HALF_WIDTH = 64  # where ideal filters are truncated before windowing
ROTATION_UP = 4  # upsampling factor before rotated pixels are sampled
PASS = 4  # images that share one random transform
TRANSLATE_MAX = 0.125  # as a fraction of the larger side
PEAK = 2.0  # signal range of images in [−1, 1]

Moved = tuple[torch.Tensor, torch.Tensor]


def translate_integer(x: torch.Tensor, shift_x: int, shift_y: int) -> Moved:
    """Shift by whole pixels, filling with zeros."""
    size = x.shape[2:]
    return _place(x, shift_x, shift_y, size), _place(torch.ones_like(x), shift_x, shift_y, size)


def translate_fractional(x: torch.Tensor, shift_x: float, shift_y: float) -> Moved:
    """Shift by a fraction of pixels with a Lanczos kernel."""
    (ix, taps_x), (iy, taps_y) = _lanczos_taps(shift_x), _lanczos_taps(shift_y)
    taps = torch.from_numpy(np.outer(taps_y, taps_x)).to(x)
    before, after = LANCZOS - 1, LANCZOS
    # The full convolution: larger than the image by the taps before and after each pixel.
    y = upfirdn2d(x, taps, padding=before + after)
    moved = _place(y, ix - before, iy - before, x.shape[2:])
    mask = torch.zeros_like(x)
    rows, columns = (
        slice(max(i + after, 0), max(min(i - before, 0) + size, 0))
        for i, size in zip((iy, ix), x.shape[2:], strict=True)
    )
    mask[:, :, rows, columns] = 1
    return moved, mask


def _place(y: torch.Tensor, left: int, top: int, size: torch.Size) -> torch.Tensor:
    """Paste `y` at (`left`, `top`) of a zero image of `size` (height, width)."""
    out = y.new_zeros([*y.shape[:2], *size])
    (y0, y1, from_y), (x0, x1, from_x) = (
        (max(start, 0), min(start + have, want), max(-start, 0))
        for start, have, want in zip((top, left), y.shape[2:], size, strict=True)
    )
    if y1 > y0 and x1 > x0:
        out[:, :, y0:y1, x0:x1] = y[:, :, from_y : from_y + y1 - y0, from_x : from_x + x1 - x0]
    return out


def _lanczos_taps(shift: float) -> tuple[int, np.ndarray]:
    """Return the integer part of `shift`, and taps at offsets −2 … 3 for its fraction."""
    whole = math.floor(shift)
    x = np.arange(1 - LANCZOS, LANCZOS + 1) - (shift - whole)
    taps = np.sinc(x) * np.sinc(x / LANCZOS)
    return whole, taps / taps.sum()


def rotation_matrix(angle: float) -> torch.Tensor:
    """Return float64 `[2, 2]`: counter-clockwise rotation on the screen, where y points down."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)


def bandlimit_filter(matrix: torch.Tensor, up: int) -> torch.Tensor:
    """Return a lowpass filter that band-limits to both grids of a linear map.

    One grid is the image's, the other the same after applying `matrix`. The two ideal filters are
    convolved, then multiplied by the convolution of the two Lanczos windows.

    Args:
        matrix: float64 `[2, 2]`.
        up: taps per sample.

    Returns:
        Taps float64 `[K, K]` with K = 12·`up` − 1 and sum 1.
    """

    def convolved(half_width: int, kernel: Callable) -> torch.Tensor:
        """Convolve the kernel along the image's axes with that along the mapped axes."""
        count = 2 * half_width * up - 1
        # Offsets in the order of a discrete Fourier transform: 0 first, negative ones last.
        axis = torch.fft.fftfreq(count, 1 / count, dtype=torch.float64, device=matrix.device) / up
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        mapped_x, mapped_y = torch.tensordot(matrix, torch.stack([x, y]), dims=1)
        kernels = torch.stack([kernel(x) * kernel(y), kernel(mapped_x) * kernel(mapped_y)])
        return torch.fft.irfft2(torch.fft.rfft2(kernels).prod(dim=0), s=[count, count])

    def window(x: torch.Tensor) -> torch.Tensor:
        return torch.sinc(x / LANCZOS) * (x.abs() < LANCZOS)

    keep = FILTER_HALF_WIDTH * up
    offsets = torch.arange(-keep + 1, keep, device=matrix.device)
    # The convolved windows reach 3·(1 + √2) < 8 samples, so 12 avoid wrap-around.
    parts = (convolved(SINC_HALF_WIDTH, torch.sinc), convolved(2 * FILTER_HALF_WIDTH, window))
    ideal, soft = (part[offsets][:, offsets] for part in parts)
    taps = F.pad(ideal * soft, [0, 1, 0, 1])
    taps = rearrange(taps, "(y phase_y) (x phase_x) -> y phase_y x phase_x", phase_y=up, phase_x=up)
    # Each of the up² phases sums to the same, so that a constant image stays constant.
    taps = taps / (taps.sum(dim=(0, 2), keepdim=True) * up**2)
    return rearrange(taps, "y phase_y x phase_x -> (y phase_y) (x phase_x)")[:-1, :-1]


def rotate(x: torch.Tensor, angle: float) -> Moved:
    """Rotate about the centre: upsample, band-limit to both grids, then sample bilinearly."""
    up, matrix = ROTATION_UP, rotation_matrix(angle).to(precise_device(x.device))
    taps = bandlimit_filter(matrix, up).to(x)
    border = taps.shape[0] // 2
    fine = upsample2d(x, taps, up=up, padding=border)
    grid = _source_positions(matrix.T, x.shape[2:], fine.shape[2:], up).to(x)
    grid = grid.expand(len(x), -1, -1, -1)
    inside = torch.zeros_like(fine)
    cut = 2 * border + 1
    inside[:, :, cut:-cut, cut:-cut] = 1
    moved = F.grid_sample(fine, grid, "bilinear", "zeros", align_corners=False)
    return moved, F.grid_sample(inside, grid, "nearest", "zeros", align_corners=False)


def _source_positions(
    inverse: torch.Tensor, size: torch.Size, fine_size: torch.Size, up: int
) -> torch.Tensor:
    """Return where each pixel of `size` is sampled from the upsampled image of `fine_size`.

    Returns:
        `[1, H, W, 2]` in the coordinates of `grid_sample`.
    """
    height, width = size
    y = torch.arange(height).to(inverse) + 0.5 - height / 2
    x = torch.arange(width).to(inverse) + 0.5 - width / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    source = torch.stack([x, y], dim=-1) @ inverse.T
    # Upsampling puts the first fine sample at the pixel's centre: half a fine pixel of offset.
    return (2 * (source * up + 0.5) / torch.tensor(fine_size[::-1]).to(inverse))[None]


def pseudo_rotate(x: torch.Tensor, angle: float) -> Moved:
    """Apply the filter of `rotate` without rotating, for an image generated rotated."""
    matrix = rotation_matrix(-angle).to(precise_device(x.device))
    taps = bandlimit_filter(matrix, up=1).to(x)
    border = taps.shape[0] // 2
    mask = torch.zeros_like(x)
    mask[:, :, border:-border, border:-border] = 1
    return filter2d(x, taps), mask


@dataclass(frozen=True)
class Draw:
    """A random transform with the latents and labels it is applied to.

    Attributes:
        z: latents `[B, z_dim]`, B ≤ 4.
        c: labels `[B, c_dim]`.
        shift: x and y as fractions of the larger side.
        angle: in radians.
    """

    z: torch.Tensor
    c: torch.Tensor
    shift: tuple[float, float]
    angle: float


def draws(
    G: Any, dataset: TrainingImages | None, num: int, seed: int, rank: int = 0, size: int = 1
) -> Iterator[Draw]:
    """Yield this process's part of the random transforms for `num` images.

    Args:
        G: the generator.
        dataset: source of labels; None for networks without labels.
        num: number of images over all processes.
        seed: random seed. The draws do not depend on the number of processes.
        rank: index of this process.
        size: number of processes.
    """
    for i in range(rank, -(-num // PASS), size):
        random = np.random.RandomState([seed, i])
        # A whole pass is drawn even if less is used: `num` must not change the transform.
        z = torch.from_numpy(random.randn(PASS, G.z_dim).astype(np.float32))
        shift = (random.rand(2) * 2 - 1) * TRANSLATE_MAX
        angle = (random.rand() * 2 - 1) * math.pi
        c = sample_labels(G, dataset, random, PASS)
        used = min(PASS, num - i * PASS)
        yield Draw(z[:used], c[:used], (shift[0], shift[1]), angle)


def check_movable(G: Any) -> None:
    """Raise ValueError for a network whose input cannot be transformed (StyleGAN2)."""
    source = getattr(G.synthesis, "input", None)
    if getattr(source, "transform", None) is None:
        raise ValueError(
            "metrics: eqt and eqr transform the input of a StyleGAN3, which this network is not"
        )


@torch.no_grad()
def squared_errors(G: Any, draw: Draw, kind: str) -> torch.Tensor:
    """Compare images generated with a transformed input to transformed images.

    Args:
        G: a StyleGAN3 generator; its input transform is restored afterwards.
        draw: latents and transform.
        kind: 'eqt_int', 'eqt_frac' or 'eqr'.

    Returns:
        float64 `[2]`: sum of masked squared differences, and sum of the mask.
    """
    transform = G.synthesis.input.transform
    # A copy: `render` overwrites the buffer in place.
    device, before = transform.device, transform.clone()
    ws = G.mapping(z=draw.z.to(device), c=draw.c.to(device))

    def render(matrix: torch.Tensor) -> torch.Tensor:
        transform.copy_(matrix)
        # Fixed noise, float32: only the transform may make the two images differ.
        return G.synthesis(ws, noise_mode="const", force_fp32=True)

    matrix = torch.eye(3)
    try:
        still = render(matrix)
        if kind == "eqr":
            matrix[:2, :2] = rotation_matrix(-draw.angle)
            target, target_mask = rotate(still, draw.angle)
            image, mask = pseudo_rotate(render(matrix), draw.angle)
            # Each filter reaches beyond the border: compare where neither does.
            mask = mask * target_mask
        else:
            side = max(still.shape[2:])
            x, y = (t * side for t in draw.shift)
            if kind == "eqt_int":
                x, y = round(x), round(y)
                target, mask = translate_integer(still, x, y)
            else:
                target, mask = translate_fractional(still, x, y)
            # The input transform maps output to input positions: the inverse of the shift.
            matrix[:2, 2] = -torch.tensor([x, y], dtype=torch.float64) / side
            image = render(matrix)
    finally:
        transform.copy_(before)
    precise = precise_device(image.device)
    error = ((image - target).to(precise, torch.float64).square() * mask.to(precise)).sum()
    # Sums, because the PSNR is that of all samples together, not a mean of PSNRs (§6.3).
    return torch.stack([error, mask.to(precise, torch.float64).sum()])


def psnr(squared_error: float, count: float) -> float:
    """Return the PSNR in dB for a signal range of 2; infinite without error."""
    if squared_error == 0:
        return math.inf
    return 20 * math.log10(PEAK) - 10 * math.log10(squared_error / count)
