"""Styles: image filters from the flat drawing, uint8 [H, W, 3], to uint8 [H, W, 3]."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def _bytes(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def sketch(image: np.ndarray) -> np.ndarray:
    """Pencil: dark contours on paper, hatched once in the mid-tones and twice in the dark ones."""
    unit = image.shape[0] / 64
    grey = _unit(image) @ _LUMA
    tone = ndimage.uniform_filter(grey, max(1, round(0.8 * unit)))
    contour = np.clip((ndimage.uniform_filter(grey, round(4 * unit)) - grey - 0.04) * 3.2, 0, 1)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] / unit
    one = 0.5 + 0.5 * np.cos((x + y) * (2 * np.pi / 4))
    two = 0.5 + 0.5 * np.cos((x - y) * (2 * np.pi / 4))
    hatch = one * np.clip((0.66 - tone) * 4, 0, 0.55) + two * np.clip((0.40 - tone) * 5, 0, 0.55)
    paper = np.array([0.97, 0.96, 0.93], dtype=np.float32)
    graphite = np.array([0.20, 0.20, 0.24], dtype=np.float32)
    ink = np.clip(contour + hatch, 0, 1)[..., None].astype(np.float32)
    return _bytes(paper + (graphite - paper) * ink)


def pixel(image: np.ndarray) -> np.ndarray:
    """Pixel art: 16×16 blocks with five levels per channel, and a dark grid."""
    size = image.shape[0]
    rows = np.arange(size) * 16 // size
    starts = np.searchsorted(rows, np.arange(16))
    counts = np.diff(np.append(starts, size))
    sums = np.add.reduceat(np.add.reduceat(_unit(image), starts, 0), starts, 1)
    blocks = sums / (counts[:, None] * counts)[..., None]
    blocks = np.clip((blocks - 0.5) * 1.25 + 0.5, 0, 1)
    out = np.floor(blocks * 4 + 0.5)[rows][:, rows] / 4
    grid = np.ones(size, dtype=np.float32)
    line = max(1, round(size / 64))
    for k in range(line):
        grid[starts + k] = 0.78
    return _bytes(out * np.minimum(grid[:, None], grid)[..., None])


def neon(image: np.ndarray) -> np.ndarray:
    """Neon: glowing tubes along the edges of the drawing, on a dark wall."""
    unit = image.shape[0] / 64
    flat = _unit(image)
    reach = 2 * max(1, round(unit)) + 1
    bright = ndimage.maximum_filter(flat, (reach, reach, 1))
    step = max(1, round(unit))
    dx = np.abs(np.roll(flat, step, 1) - np.roll(flat, -step, 1))
    dy = np.abs(np.roll(flat, step, 0) - np.roll(flat, -step, 0))
    dx[:, :step], dx[:, -step:], dy[:step], dy[-step:] = 0, 0, 0, 0
    edge = np.clip((np.maximum(dx, dy).max(-1) - 0.22) * 1.9, 0, 1)
    mean = bright.mean(-1, keepdims=True)
    tube = np.clip(mean + (bright - mean) * 2.4, 0.05, 1)
    light = tube * edge[..., None]
    glow = ndimage.uniform_filter(light, (round(5 * unit), round(5 * unit), 1))
    wall = np.array([0.05, 0.02, 0.13], dtype=np.float32)
    return _bytes(wall + light + 0.75 * glow)


def sepia(image: np.ndarray) -> np.ndarray:
    """Sepia: an old photograph with brown tones, faded blacks and dark corners."""
    size = image.shape[0]
    grey = _unit(image) @ _LUMA
    span = np.linspace(-1, 1, size, dtype=np.float32)
    corner = 1 - 0.32 * np.clip(span[:, None] ** 2 + span**2 - 0.35, 0, 2)
    dark = np.array([0.22, 0.13, 0.06], dtype=np.float32)
    light = np.array([0.98, 0.86, 0.64], dtype=np.float32)
    return _bytes((dark + (light - dark) * grey[..., None]) * corner[..., None])


STYLE_FILTERS = {"sketch": sketch, "pixel": pixel, "neon": neon, "sepia": sepia}
