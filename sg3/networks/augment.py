"""Adaptive discriminator augmentation (ADA, arXiv 2006.06676; REFERENCE.md §5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, repeat
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
#: Expected power of natural images in the lowest band and in each other band.
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
    """Return filters `[4, 43]` that split an image into octave bands; their sum is an impulse."""
    low = np.array(SYM2)
    # Alternating signs mirror the spectrum: the high-pass filter of the same wavelet.
    high = low * (-1.0) ** np.arange(low.size)
    # Each level of the bank is the previous one, zero-inserted and low-pass filtered, plus a new
    # high-pass band: a wavelet packet without decimation.
    low2, high2 = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for i in range(1, 4):
        spread = np.zeros([4, 2 * bank.shape[1] - 1])
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in spread])
        start = (bank.shape[1] - high2.size) // 2
        bank[i, start : start + high2.size] += high2
    return bank


def check_images(images: torch.Tensor) -> None:
    """Raise ValueError unless `images` are `[N, C, H, W]` with 1, 3 or 4 channels."""
    if images.ndim != 4 or images.shape[1] not in CHANNELS:
        raise ValueError(
            f"images: got shape {tuple(images.shape)}, expected [N, C, H, W] with C in "
            f"{', '.join(map(str, CHANNELS))}; convert them to gray, RGB or RGBA"
        )


class AugmentPipe(nn.Module):
    """Augments images `[N, C, H, W]` with 1, 3 or 4 channels; the shape stays the same.

    An operation applies to an image with probability multiplier · `p`, where `p` is a buffer.
    Operations with multiplier 0 neither run nor draw random numbers. Differentiable to any order,
    since the R1 penalty differentiates through it. Random numbers come from the torch generator of
    the images' device.

    Args:
        xflip, yflip, rotate90, xint: probability multipliers of pixel blitting. `yflip` (upside
            down) is not part of ADA.
        xint_max: range of integer translation, as a fraction of the image.
        scale, rotate, aniso, xfrac: probability multipliers of general geometry.
        scale_std: log2 standard deviation of isotropic scaling.
        rotate_max: range of rotation; 1 is the full circle.
        aniso_std: log2 standard deviation of anisotropic scaling.
        xfrac_std: standard deviation of fractional translation, as a fraction of the image.
        brightness, contrast, lumaflip, hue, saturation: probability multipliers of colour.
        brightness_std: standard deviation of brightness.
        contrast_std: log2 standard deviation of contrast.
        hue_max: range of hue rotation; 1 is the full circle.
        saturation_std: log2 standard deviation of saturation.
        imgfilter: probability multiplier of image-space filtering.
        imgfilter_bands: probability multipliers of the four octave bands, lowest first.
        imgfilter_std: log2 standard deviation of the gain of a band.
        noise: probability multiplier of additive RGB noise.
        cutout: probability multiplier of cutout.
        noise_std: standard deviation of the noise.
        cutout_size: side of the cutout rectangle, as a fraction of the image.

    Raises:
        ValueError: `imgfilter_bands` does not have four entries.
    """

    p: torch.Tensor
    Hz_geom: torch.Tensor
    Hz_fbank: torch.Tensor

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
        """Augment images.

        Args:
            images: `[N, C, H, W]`.
            debug_percentile: in [0, 1], replaces each random number by this percentile; for tests.

        Returns:
            `[N, C, H, W]`.

        Raises:
            ValueError: the shape has not four axes or not 1, 3 or 4 channels.
        """
        check_images(images)
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
            sigma = draws.gated(sigma, 0, self.noise * self.p)  # drawn before the noise itself
            images = images + torch.randn_like(images) * sigma
        if self.cutout > 0:
            images = self._cut_out(images, draws)
        return images

    def _filter_bands(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Amplify or attenuate octave bands at constant expected power (REFERENCE.md §5.5)."""
        n, channels = images.shape[:2]
        power = images.new_full([NUM_BANDS], HIGH_POWER)
        power[0] = LOW_POWER
        gains = images.new_ones([n, NUM_BANDS])
        for band, strength in enumerate(self.imgfilter_bands):
            if strength == 0:
                continue
            t = (draws.normal() * self.imgfilter_std).exp2()
            # Amplifying a band attenuates all others, so that the expected power stays the same.
            t = draws.gated(t, 1, self.imgfilter * self.p * strength)
            bands = torch.ones_like(gains)
            bands[:, band] = t
            gains = gains * bands / (power * bands.square()).sum(dim=1, keepdim=True).sqrt()
        taps = gains @ self.Hz_fbank.to(images.dtype)  # [N, 43]
        # One filter per image: a grouped convolution with the batch folded into the channels.
        taps = repeat(taps, "n k -> (n c) 1 1 k", c=channels)
        border = taps.shape[3] // 2
        images = rearrange(images, "n c h w -> 1 (n c) h w")
        images = reflect(images, border)
        images = conv2d(images, taps, groups=n * channels)
        images = conv2d(images, taps.transpose(2, 3), groups=n * channels)
        return rearrange(images, "1 (n c) h w -> n c h w", c=channels)

    def _cut_out(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Set a rectangle around a random point to 0 (REFERENCE.md §5.6)."""
        height, width = images.shape[2:]
        size = torch.full(
            [draws.num, 2, 1, 1], self.cutout_size, device=images.device, dtype=images.dtype
        )
        # A rectangle of size 0 removes nothing, so the batch needs no branch.
        size = draws.gated(size, 0, self.cutout * self.p)
        centre = draws.uniform(2, 1, 1)
        x = torch.arange(width, device=images.device, dtype=images.dtype)
        y = torch.arange(height, device=images.device, dtype=images.dtype)
        far_x = ((x + 0.5) / width - centre[:, 0]).abs() >= size[:, 0] / 2  # [N, 1, W]
        far_y = ((y[:, None] + 0.5) / height - centre[:, 1]).abs() >= size[:, 1] / 2  # [N, H, 1]
        return images * (far_x | far_y)[:, None]


def reflect(images: torch.Tensor, border: int) -> torch.Tensor:
    """Pad `images` `[N, C, H, W]` by reflection; `border` may be wider than the image.

    Raises ValueError for images of less than 2×2 pixels.
    """
    height, width = images.shape[2:]
    if min(height, width) < 2:
        raise ValueError(
            f"images: got {height}x{width} pixels, expected at least 2x2; disable imgfilter"
        )
    left_x = left_y = border
    while left_x or left_y:
        # After a full width the padded image ends on its mirrored edge: reflect again from there.
        x, y = min(left_x, width - 1), min(left_y, height - 1)
        images = pad(images, [x, x, y, y], mode="reflect")
        left_x, left_y = left_x - x, left_y - y
    return images
