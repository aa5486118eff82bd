"""Equivariance: image operators and the PSNR of moved pictures (SG3 App. E; REFERENCE.md §6.3).

The operators take images `[N, C, H, W]` and return `(moved, mask)` of that shape; the mask is 1
where the result depends on pixels of the image alone. Shifts are in pixels, to the right and down;
angles in radians.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ops_cuda import filter2d, upfirdn2d, upsample2d
from sg3.metrics.statistics import precise_device

LANCZOS = 3  # half-width of the window, in samples
FILTER_HALF_WIDTH = 6  # of the filters for rotations, in samples
SINC_HALF_WIDTH = 64  # where ideal filters are cut before they are windowed
ROTATION_UP = 4  # how much finer the grid is that rotated pixels are read from
PASS = 4  # pictures that share one random transform
TRANSLATE_MAX = 0.125  # of the larger side
PEAK = 2.0  # of images in [−1, 1]

Moved = tuple[torch.Tensor, torch.Tensor]


def translate_integer(x: torch.Tensor, shift_x: int, shift_y: int) -> Moved:
    """Shift by whole pixels; zeros come in."""
    size = x.shape[2:]
    return _place(x, shift_x, shift_y, size), _place(torch.ones_like(x), shift_x, shift_y, size)


def translate_fractional(x: torch.Tensor, shift_x: float, shift_y: float) -> Moved:
    """Shift by any distance with a Lanczos kernel."""
    (ix, taps_x), (iy, taps_y) = _lanczos_taps(shift_x), _lanczos_taps(shift_y)
    taps = torch.from_numpy(np.outer(taps_y, taps_x)).to(x)
    before, after = LANCZOS - 1, LANCZOS
    # The whole convolution: larger than the image by the taps before and after each pixel.
    y = upfirdn2d(x, taps, padding=before + after)
    moved = _place(y, ix - before, iy - before, x.shape[2:])
    mask = torch.zeros_like(x)
    rows, columns = (
        slice(max(i + after, 0), max(min(i - before, 0) + size, 0))
        for i, size in zip((iy, ix), x.shape[2:], strict=True)
    )
    mask[:, :, rows, columns] = 1
    return moved, mask


def _place(y: torch.Tensor, left: int, top: int, size: tuple[int, int]) -> torch.Tensor:
    """`y` with its corner at (`left`, `top`) of a black picture of `size` (height, width)."""
    out = y.new_zeros([*y.shape[:2], *size])
    (y0, y1, from_y), (x0, x1, from_x) = (
        (max(start, 0), min(start + have, want), max(-start, 0))
        for start, have, want in zip((top, left), y.shape[2:], size, strict=True)
    )
    if y1 > y0 and x1 > x0:
        out[:, :, y0:y1, x0:x1] = y[:, :, from_y : from_y + y1 - y0, from_x : from_x + x1 - x0]
    return out


def _lanczos_taps(shift: float) -> tuple[int, np.ndarray]:
    """The whole part of `shift`, and the taps of the rest for offsets −2 … 3."""
    whole = math.floor(shift)
    x = np.arange(1 - LANCZOS, LANCZOS + 1) - (shift - whole)
    taps = np.sinc(x) * np.sinc(x / LANCZOS)
    return whole, taps / taps.sum()


def rotation_matrix(angle: float) -> torch.Tensor:
    """float64 `[2, 2]`, counter-clockwise on the screen, where y points down."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)


def bandlimit_filter(matrix: torch.Tensor, up: int) -> torch.Tensor:
    """Taps float64 `[K, K]`, K = 12·`up` − 1: pass what both grids of a linear map can hold.

    One grid is the image's, the other is `matrix` `[2, 2]` applied to it; both ideal filters are
    convolved, then multiplied by the likewise convolved Lanczos windows. Sum 1, `up` taps per
    sample.
    """

    def spectrum(half_width: int, kernel) -> torch.Tensor:
        """Of the kernel along the image's axes times that along the mapped axes."""
        count = 2 * half_width * up - 1
        # In the order of a discrete Fourier transform: 0 first, negative ones last.
        axis = torch.fft.fftfreq(count, 1 / count, dtype=torch.float64, device=matrix.device) / up
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        mapped_x, mapped_y = torch.tensordot(matrix, torch.stack([x, y]), dims=1)
        kernels = torch.stack([kernel(x) * kernel(y), kernel(mapped_x) * kernel(mapped_y)])
        return torch.fft.irfft2(torch.fft.rfft2(kernels).prod(dim=0), s=[count, count])

    def window(x: torch.Tensor) -> torch.Tensor:
        return torch.sinc(x / LANCZOS) * (x.abs() < LANCZOS)

    keep = FILTER_HALF_WIDTH * up
    offsets = torch.arange(-keep + 1, keep, device=matrix.device)
    # The windows end at 3·(1 + √2) < 8 samples: a smaller circle holds their convolution.
    parts = (spectrum(SINC_HALF_WIDTH, torch.sinc), spectrum(2 * FILTER_HALF_WIDTH, window))
    ideal, soft = (part[offsets][:, offsets] for part in parts)
    taps = F.pad(ideal * soft, [0, 1, 0, 1]).reshape(keep // up * 2, up, keep // up * 2, up)
    taps = taps / (taps.sum(dim=(0, 2), keepdim=True) * up**2)  # a constant stays one
    return taps.reshape(2 * keep, 2 * keep)[:-1, :-1]


def rotate(x: torch.Tensor, angle: float) -> Moved:
    """Rotate about the centre: band-limited to both grids, then read from a finer grid."""
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


def _source_positions(inverse, size, fine_size, up: int) -> torch.Tensor:
    """Where each pixel of `size` comes from, `[1, H, W, 2]` as `grid_sample` counts in `fine_size`.

    The fine grid's samples start with the pixel they refine, half a fine pixel off its centre.
    """
    height, width = size
    options = {"dtype": inverse.dtype, "device": inverse.device}
    y = torch.arange(height, **options) + 0.5 - height / 2
    x = torch.arange(width, **options) + 0.5 - width / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    source = torch.stack([x, y], dim=-1) @ inverse.T
    return (2 * (source * up + 0.5) / torch.tensor(fine_size[::-1], **options))[None]


def pseudo_rotate(x: torch.Tensor, angle: float) -> Moved:
    """The filter of a rotation without the rotation: what `rotate` does to a picture that a
    generator drew rotated."""
    matrix = rotation_matrix(-angle).to(precise_device(x.device))
    taps = bandlimit_filter(matrix, up=1).to(x)
    border = taps.shape[0] // 2
    mask = torch.zeros_like(x)
    mask[:, :, border:-border, border:-border] = 1
    return filter2d(x, taps), mask


@dataclass(frozen=True)
class Draw:
    """One random move and the latents `z` `[4, z_dim]` and labels `c` it is tried on."""

    z: torch.Tensor
    c: torch.Tensor
    shift: tuple[float, float]  # in larger sides
    angle: float


def draws(G, dataset, num: int, seed: int, rank: int = 0, size: int = 1) -> Iterator[Draw]:
    """This process's share of the moves for `num` pictures; the same for any number of processes.

    `dataset` gives labels, and may be None for a network without them.
    """
    for i in range(rank, -(-num // PASS), size):
        random = np.random.RandomState([seed, i])
        z = torch.from_numpy(random.randn(PASS, G.z_dim).astype(np.float32))
        shift = (random.rand(2) * 2 - 1) * TRANSLATE_MAX
        angle = (random.rand() * 2 - 1) * math.pi
        c = torch.zeros([PASS, 0]) if G.c_dim == 0 else dataset.random_labels(random, PASS)
        used = min(PASS, num - i * PASS)
        yield Draw(z[:used], c[:used], (shift[0], shift[1]), angle)


def check_movable(G) -> None:
    """Raise ValueError for a network whose input cannot be transformed (StyleGAN2)."""
    source = getattr(G.synthesis, "input", None)
    if getattr(source, "transform", None) is None:
        raise ValueError(
            "metrics: eqt and eqr move the input of a StyleGAN3, which this network has not"
        )


@torch.no_grad()
def squared_errors(G, draw: Draw, kind: str) -> torch.Tensor:
    """float64 `[2]`: sum of masked squared differences and of the mask, for one `Draw`.

    `kind` is 'eqt_int', 'eqt_frac' or 'eqr'. A picture that is drawn moved is compared with the
    picture moved by an operator. G's own transform is put back afterwards.
    """
    transform = G.synthesis.input.transform
    device, before = transform.device, transform.clone()
    ws = G.mapping(z=draw.z.to(device), c=draw.c.to(device))

    def render(matrix: torch.Tensor) -> torch.Tensor:
        transform.copy_(matrix)
        return G.synthesis(ws, noise_mode="const", force_fp32=True)

    matrix = torch.eye(3)
    try:
        still = render(matrix)
        if kind == "eqr":
            matrix[:2, :2] = rotation_matrix(-draw.angle)
            target, target_mask = rotate(still, draw.angle)
            image, mask = pseudo_rotate(render(matrix), draw.angle)
            mask = mask * target_mask
        else:
            side = max(still.shape[2:])
            shift = [t * side for t in draw.shift]
            shift = [round(t) for t in shift] if kind == "eqt_int" else shift
            matrix[:2, 2] = -torch.tensor(shift, dtype=torch.float64) / side
            move = translate_integer if kind == "eqt_int" else translate_fractional
            target, mask = move(still, *shift)
            image = render(matrix)
    finally:
        transform.copy_(before)
    precise = precise_device(image.device)
    error = ((image - target).to(precise, torch.float64).square() * mask.to(precise)).sum()
    return torch.stack([error, mask.to(precise, torch.float64).sum()])


def psnr(squared_error: float, count: float) -> float:
    """Decibels for a peak of 2; infinite for no error."""
    if squared_error == 0:
        return math.inf
    return 20 * math.log10(PEAK) - 10 * math.log10(squared_error / count)
