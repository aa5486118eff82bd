"""The adaptive augmentation of what the discriminator sees (ADA, arXiv 2006.06676; REFERENCE.md §5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, pad

from ops_cuda import setup_filter
from sg3.networks.augment_color import apply_color, draw_color
from sg3.networks.augment_draws import Draws
from sg3.networks.augment_geometry import apply_geometry, draw_geometry

#: Low-pass decomposition coefficients of the wavelets sym6 and sym2.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
NUM_BANDS = 4
#: Expected power of natural images in the lowest band, and in each of the others.
LOW_POWER, HIGH_POWER = 10 / 13, 1 / 13

_BLIT = ("xflip", "rotate90", "xint")
_GEOM = ("scale", "rotate", "aniso", "xfrac")
_COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
_GROUPS = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": _BLIT + _GEOM,
    "bgc": _BLIT + _GEOM + _COLOR,
    "bgcf": (*_BLIT, *_GEOM, *_COLOR, "imgfilter"),
    "bgcfn": (*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise"),
    "bgcfnc": (*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise", "cutout"),
}
#: Arguments of `AugmentPipe` by name (REFERENCE.md §5.1).
PRESETS: dict[str, dict[str, float]] = {
    name: dict.fromkeys(operations, 1.0) for name, operations in _GROUPS.items()
}
CHANNELS = (1, 3, 4)


def band_filters() -> np.ndarray:
    """Filters `[4, 43]` that split an image into octave bands; their sum is an impulse."""
    low = np.array(SYM2)
    high = low * (-1.0) ** np.arange(low.size)
    low2, high2 = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for i in range(1, 4):
        spread = np.zeros([4, 2 * bank.shape[1] - 1])
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in spread])
        start = (bank.shape[1] - high2.size) // 2
        bank[i, start : start + high2.size] += high2
    return bank


class AugmentPipe(nn.Module):
    """Images `[N, C, H, W]` (1, 3 or 4 channels) to augmented images of the same shape.

    Every operation happens to an image with the probability of its multiplier times the buffer
    `p`; operations with multiplier 0 neither run nor draw. Differentiable any number of times,
    because R1 looks through it. Random numbers come from torch's generator of the images' device.

    Args:
        xflip … cutout: probability multipliers. `yflip` (upside down) is ours.
        xint_max … cutout_size: strengths, as fractions of the image, octaves (std of log2) or
            turns; `imgfilter_bands` scales the probability per octave band.
    """

    def __init__(
        self,
        xflip: float = 0,
        rotate90: float = 0,
        xint: float = 0,
        xint_max: float = 0.125,
        scale: float = 0,
        rotate: float = 0,
        aniso: float = 0,
        xfrac: float = 0,
        scale_std: float = 0.2,
        rotate_max: float = 1,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1,
        saturation_std: float = 1,
        imgfilter: float = 0,
        imgfilter_bands: Sequence[float] = (1, 1, 1, 1),
        imgfilter_std: float = 1,
        noise: float = 0,
        cutout: float = 0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
        yflip: float = 0,
    ):
        super().__init__()
        self.xflip, self.yflip, self.rotate90 = xflip, yflip, rotate90
        self.xint, self.xint_max = xint, xint_max
        self.scale, self.scale_std = scale, scale_std
        self.rotate, self.rotate_max = rotate, rotate_max
        self.aniso, self.aniso_std = aniso, aniso_std
        self.xfrac, self.xfrac_std = xfrac, xfrac_std
        self.brightness, self.brightness_std = brightness, brightness_std
        self.contrast, self.contrast_std = contrast, contrast_std
        self.lumaflip = lumaflip
        self.hue, self.hue_max = hue, hue_max
        self.saturation, self.saturation_std = saturation, saturation_std
        self.imgfilter, self.imgfilter_std = imgfilter, imgfilter_std
        self.imgfilter_bands = tuple(imgfilter_bands)
        if len(self.imgfilter_bands) != NUM_BANDS:
            raise ValueError(
                f"imgfilter_bands: got {len(self.imgfilter_bands)} numbers, expected {NUM_BANDS}; "
                "give one strength per octave band"
            )
        self.noise, self.noise_std = noise, noise_std
        self.cutout, self.cutout_size = cutout, cutout_size
        self.register_buffer("p", torch.ones([]))
        self.register_buffer("Hz_geom", setup_filter(SYM6))
        bank = torch.from_numpy(band_filters()).to(torch.float32)
        self.register_buffer("Hz_fbank", bank)

    def forward(self, images: torch.Tensor, debug_percentile: float | None = None) -> torch.Tensor:
        """Augmented `images` `[N, C, H, W]`; `debug_percentile` in [0, 1] fixes every draw."""
        if images.ndim != 4 or images.shape[1] not in CHANNELS:
            raise ValueError(
                f"images: got shape {tuple(images.shape)}, expected [N, C, H, W] with C in "
                f"{', '.join(map(str, CHANNELS))}; convert them to gray, RGB or RGBA"
            )
        draws = Draws(images.shape[0], images.device, images.dtype, debug_percentile)
        inverse = draw_geometry(self, draws, *images.shape[2:])
        if inverse is not None:
            images = apply_geometry(images, inverse, self.Hz_geom)
        matrix = draw_color(self, draws, images.shape[1])
        if matrix is not None:
            images = apply_color(images, matrix)
        if self.imgfilter > 0:
            images = self._filter_bands(images, draws)
        if self.noise > 0:
            sigma = draws.half_normal(1, 1, 1) * self.noise_std
            sigma = draws.gated(sigma, 0, self.noise * self.p)  # before the pixels' own draws
            images = images + torch.randn_like(images) * sigma
        if self.cutout > 0:
            images = self._cut_out(images, draws)
        return images

    def _filter_bands(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Amplify or damp octave bands, keeping the expected power (REFERENCE.md §5.5)."""
        n, channels, height, width = images.shape
        power = images.new_full([NUM_BANDS], HIGH_POWER)
        power[0] = LOW_POWER
        gains = images.new_ones([n, NUM_BANDS])
        for band, strength in enumerate(self.imgfilter_bands):
            if strength == 0:
                continue
            t = (draws.normal() * self.imgfilter_std).exp2()
            t = draws.gated(t, 1, self.imgfilter * self.p * strength)
            bands = torch.ones_like(gains)
            bands[:, band] = t
            gains = gains * bands / (power * bands.square()).sum(dim=1, keepdim=True).sqrt()
        taps = gains @ self.Hz_fbank.to(images.dtype)  # [N, 43]
        taps = taps[:, None].expand(-1, channels, -1).reshape(n * channels, 1, 1, -1)
        border = taps.shape[3] // 2
        images = images.reshape(1, n * channels, height, width)
        images = reflect(images, border)
        images = conv2d(images, taps, groups=n * channels)
        images = conv2d(images, taps.transpose(2, 3), groups=n * channels)
        return images.reshape(n, channels, height, width)

    def _cut_out(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Blacken (to 0) a rectangle around a random point (REFERENCE.md §5.6)."""
        height, width = images.shape[2:]
        size = torch.full(
            [draws.num, 2, 1, 1], self.cutout_size, device=images.device, dtype=images.dtype
        )
        size = draws.gated(size, 0, self.cutout * self.p)
        centre = draws.uniform(2, 1, 1)
        x = torch.arange(width, device=images.device, dtype=images.dtype)
        y = torch.arange(height, device=images.device, dtype=images.dtype)
        far_x = ((x + 0.5) / width - centre[:, 0]).abs() >= size[:, 0] / 2  # [N, 1, W]
        far_y = ((y[:, None] + 0.5) / height - centre[:, 1]).abs() >= size[:, 1] / 2  # [N, H, 1]
        return images * (far_x | far_y)[:, None]


def reflect(images: torch.Tensor, border: int) -> torch.Tensor:
    """`images` `[…, H, W]` with a reflected `border`, in several turns where it is wider."""
    height, width = images.shape[2:]
    if min(height, width) < 2:
        raise ValueError(
            f"images: got {height}x{width} pixels, expected at least 2x2; leave imgfilter out"
        )
    left_x = left_y = border
    while left_x or left_y:
        # A whole width ends on a mirror image of the border, from where reflection goes on.
        x, y = min(left_x, width - 1), min(left_y, height - 1)
        images = pad(images, [x, x, y, y], mode="reflect")
        left_x, left_y = left_x - x, left_y - y
    return images
