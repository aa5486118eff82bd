"""Colour augmentation as 4×4 matrices on (R, G, B, 1) (ADA App. B; REFERENCE.md §5.4)."""

from __future__ import annotations

import math

import torch
from einops import rearrange

from sg3.networks.augment_draws import Draws


def draw_color(pipe, draws: Draws, num_channels: int) -> torch.Tensor | None:
    """Draw colour matrices `[N, 4, 4]`; None if no colour operation is enabled."""
    # Built by filling: tensors from Python lists would be copied to the GPU and synchronize.
    p, eye = pipe.p, torch.eye(4, device=draws.device, dtype=draws.dtype)
    rgb, on_axis = eye.clone(), torch.zeros_like(eye)
    rgb[3, 3] = 0
    on_axis[:3, :3] = 1 / 3  # the projection onto gray
    steps = []
    if pipe.brightness > 0:
        b = draws.gated(draws.normal() * pipe.brightness_std, 0, pipe.brightness * p)
        shift = torch.zeros_like(eye)
        shift[:3, 3] = 1
        steps.append(eye + shift * b[:, None, None])
    if pipe.contrast > 0:
        c = draws.gated((draws.normal() * pipe.contrast_std).exp2(), 1, pipe.contrast * p)
        steps.append(eye + rgb * (c[:, None, None] - 1))
    if pipe.lumaflip > 0:
        i = draws.gated((draws.uniform() * 2).floor(), 0, pipe.lumaflip * p)
        steps.append(eye - 2 * on_axis * i[:, None, None])
    # Gray images have neither hue nor saturation, and draw no numbers for them.
    if pipe.hue > 0 and num_channels > 1:
        theta = (draws.uniform() * 2 - 1) * math.pi * pipe.hue_max
        steps.append(_turn(draws.gated(theta, 0, pipe.hue * p), eye, rgb, on_axis))
    if pipe.saturation > 0 and num_channels > 1:
        s = draws.gated((draws.normal() * pipe.saturation_std).exp2(), 1, pipe.saturation * p)
        steps.append(on_axis + (eye - on_axis) * s[:, None, None])
    if not steps:
        return None
    matrix = steps[0]
    for step in steps[1:]:
        matrix = step @ matrix
    return matrix


def _turn(
    theta: torch.Tensor, eye: torch.Tensor, rgb: torch.Tensor, on_axis: torch.Tensor
) -> torch.Tensor:
    """Return the right-handed rotation by `theta` `[N]` about the gray axis (Rodrigues)."""
    cycle = torch.zeros_like(eye)
    cycle[:3, :3] = eye[:3, :3].roll(1, 0)  # red to green to blue to red
    cross = (cycle - cycle.T) / math.sqrt(3)  # the cross product with (1, 1, 1)/√3
    sin, cos = theta.sin()[:, None, None], theta.cos()[:, None, None]
    return (eye - rgb) + rgb * cos + cross * sin + on_axis * (1 - cos)


def apply_color(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Apply colour matrices `[N, 4, 4]` to `images` `[N, C, H, W]` with 1, 3 or 4 channels.

    A fourth channel (alpha) is unchanged. Grayscale images get the mean of the transformed R, G
    and B of a gray pixel.
    """
    channels, height = images.shape[1:3]
    if channels == 1:
        row = matrix[:, :3].mean(dim=1)  # [N, 4]
        return images * row[:, :3].sum(1)[:, None, None, None] + row[:, 3, None, None, None]
    pixels = rearrange(images[:, :3], "n c h w -> n c (h w)")
    pixels = matrix[:, :3, :3] @ pixels + matrix[:, :3, 3:]
    rgb = rearrange(pixels, "n c (h w) -> n c h w", h=height)
    return rgb if channels == 3 else torch.cat([rgb, images[:, 3:]], dim=1)
