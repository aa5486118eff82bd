"""Drawing primitives: filled shapes with an ink outline. Units: 1/64 of the frame, y down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from recipes.minifaces.world.attributes import Colour, Pose

INK: Colour = (42, 28, 52)
RIM = 0.55  # half the width of the outline
Points = Sequence[tuple[float, float]]


def _offset(points: np.ndarray, distance: float) -> np.ndarray:
    """Move a closed polygon [P, 2] outwards along its vertex normals (mitre limited to 2)."""
    following, previous = np.roll(points, -1, 0), np.roll(points, 1, 0)
    area = np.sum(points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1])
    edges = np.stack([points - previous, following - points])
    edges = edges / np.maximum(np.linalg.norm(edges, axis=-1, keepdims=True), 1e-9)
    normals = np.stack([edges[..., 1], -edges[..., 0]], axis=-1) * math.copysign(1, area)
    bisector = normals[0] + normals[1]
    length = np.maximum(np.linalg.norm(bisector, axis=-1, keepdims=True), 1e-9)
    cosine = length / 2
    return points + bisector / length * distance / np.maximum(cosine, 0.5)


@dataclass(frozen=True)
class Shape:
    """A closed polygon [P, 2], and a larger one that shows around it as the outline."""

    fill: np.ndarray
    rim: np.ndarray

    @staticmethod
    def of(points: np.ndarray, rim: float = RIM) -> Shape:
        """Return the polygon `points` with an outline centred on its edge."""
        return Shape(_offset(points, -rim), _offset(points, rim))

    @property
    def mirrored(self) -> Shape:
        """The mirror image about x = 32."""
        flip = np.array([-1.0, 1.0])
        return Shape(self.fill * flip + (64, 0), self.rim * flip + (64, 0))


def ellipse(
    x: float, y: float, rx: float, ry: float, power: float = 2.0, tilt: float = 0.0
) -> Shape:
    """Return a superellipse |x/rx|^power + |y/ry|^power = 1, rotated by `tilt` degrees."""
    t = np.linspace(0, 2 * np.pi, 36 if max(rx, ry) > 6 else 20, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    points = np.stack(
        [rx * np.sign(c) * np.abs(c) ** (2 / power), ry * np.sign(s) * np.abs(s) ** (2 / power)], 1
    )
    a = math.radians(tilt)
    turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    return Shape.of(points @ turn + (x, y))


def polygon(points: Points) -> Shape:
    """Return a polygon with straight edges."""
    return Shape.of(np.asarray(points, dtype=float))


def _spline(p: np.ndarray, closed: bool, steps: int = 5) -> np.ndarray:
    """Sample the Catmull-Rom curve through points [P, 2]."""
    before, after = (p[-1:], p[:2]) if closed else (p[:1], p[-1:])
    q = np.concatenate([before, p, after])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    a, b, c, d = q[:-3], q[1:-2], q[2:-1], q[3:]
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def smooth(points: Points) -> Shape:
    """Return a closed smooth curve through the points."""
    return Shape.of(_spline(np.asarray(points, dtype=float), closed=True))


def stroke(points: Points, width: float) -> Shape:
    """Return a smooth open line with round ends, drawn by `fill`."""
    line = _spline(np.asarray(points, dtype=float), closed=False)
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)

    turns = np.linspace(-np.pi / 2, np.pi / 2, 8)[1:-1, None]

    def outline(r: float) -> np.ndarray:
        end = line[-1] + r * (np.cos(turns) * tangent[-1] + np.sin(turns) * normal[-1])
        start = line[0] + r * (-np.cos(turns) * tangent[0] - np.sin(turns) * normal[0])
        return np.concatenate([line - r * normal, end, (line + r * normal)[::-1], start])

    return Shape(outline(width / 2), outline(width / 2 + 2 * RIM))


def shade(colour: Colour, factor: float) -> Colour:
    """Darken a colour for factor < 1, lighten it (towards white) for factor > 1."""
    if factor <= 1:
        return tuple(int(v * factor) for v in colour)
    return tuple(int(255 - (255 - v) * (2 - factor)) for v in colour)


class Pen:
    """A canvas of `size` pixels, supersampled by the factor `oversample`.

    Pillow draws polygons without antialiasing; `finish` averages blocks of pixels.
    """

    def __init__(self, size: int, oversample: int, paper: Colour, pose: Pose) -> None:
        self._oversample = oversample
        self._image = Image.new("RGB", (size * oversample, size * oversample), paper)
        self._draw = ImageDraw.Draw(self._image)
        unit = size * oversample / 64
        a = math.radians(pose.degrees)
        turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        self._matrix = turn * (pose.scale * unit)
        centre = np.array([32.0, 36.0])
        self._shift = (centre + np.array([pose.dx, pose.dy])) * unit - centre @ self._matrix

    def _polygon(self, points: np.ndarray, colour: Colour) -> None:
        self._draw.polygon((points @ self._matrix + self._shift).ravel().tolist(), fill=colour)

    def fill(self, *shapes: Shape, colour: Colour) -> None:
        """Draw shapes without an outline."""
        for shape in shapes:
            self._polygon(shape.fill, colour)

    def ink(self, *shapes: Shape, colour: Colour, rim: Colour = INK) -> None:
        """Draw the union of the shapes in one colour, with an outline around it."""
        for shape in shapes:
            self._polygon(shape.rim, rim)
        for shape in shapes:
            self._polygon(shape.fill, colour)

    def finish(self) -> np.ndarray:
        """Return the image, uint8 [size, size, 3]."""
        return np.asarray(self._image.reduce(self._oversample))
