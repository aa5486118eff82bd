"""Charts as SVG or PNG from the same few shapes, without a plotting library."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sg3.errors import UserError
from sg3.files import write_text
from sg3.media import save_png

#: Distinct, also for most colour-blind eyes (Okabe and Ito).
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SCALE = 2  # pixels of a PNG per unit
TEXT = 12
ANCHORS = {"start": "l", "middle": "m", "end": "r"}


@dataclass
class Drawing:
    """Shapes on white, in units of a CSS pixel; y points down."""

    width: float
    height: float
    shapes: list[tuple] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], colour="#000000", width=1.0) -> None:
        """A line through points."""
        self.shapes.append(("line", list(points), colour, width))

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        self.shapes.append(("box", x, y, width, height, colour))

    def text(self, x: float, y: float, text: str, anchor="start", colour="#000000") -> None:
        """One line of text, vertically centred at `y`; `anchor` start, middle or end."""
        self.shapes.append(("text", x, y, text, anchor, colour))

    def image(self, x: float, y: float, width: float, height: float, pixels: np.ndarray) -> None:
        """A picture, uint8 `[H, W, 3]`, stretched to a rectangle; pixels stay sharp."""
        self.shapes.append(("image", x, y, width, height, pixels))

    def save(self, path: str | Path) -> None:
        """Write a .svg or .png, atomically. Raises UserError for another suffix."""
        suffix = check_suffix(path)
        if suffix == ".svg":
            write_text(path, self.svg())
        else:
            save_png(path, self.pixels())

    def svg(self) -> str:
        """As the text of an SVG file; pictures are embedded."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" '
            f'height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'font-family="sans-serif" font-size="{TEXT}">',
            '<rect width="100%" height="100%" fill="white"/>',
            *(_svg(shape) for shape in self.shapes),
            "</svg>\n",
        ]
        return "\n".join(parts)

    def pixels(self) -> np.ndarray:
        """As uint8 `[H, W, 3]`, two pixels per unit."""
        size = (round(self.width * SCALE), round(self.height * SCALE))
        picture = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT * SCALE)
        for kind, *rest in self.shapes:
            if kind == "line":
                points, colour, width = rest
                scaled = [(x * SCALE, y * SCALE) for x, y in points]
                draw.line(scaled, colour, max(1, round(width * SCALE)), joint="curve")
            elif kind == "box":
                x, y, width, height, colour = rest
                corner = ((x + width) * SCALE - 1, (y + height) * SCALE - 1)
                draw.rectangle([(x * SCALE, y * SCALE), corner], fill=colour)
            elif kind == "text":
                x, y, text, anchor, colour = rest
                where = (x * SCALE, y * SCALE)
                draw.text(where, text, colour, font, anchor=f"{ANCHORS[anchor]}m")
            else:
                x, y, width, height, pixels = rest
                box = (round(width * SCALE), round(height * SCALE))
                small = Image.fromarray(pixels).resize(box, Image.Resampling.NEAREST)
                picture.paste(small, (round(x * SCALE), round(y * SCALE)))
        return np.asarray(picture)


def check_suffix(path: str | Path) -> str:
    """ ".svg" or ".png". Raises UserError for others."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise UserError(f"{path}: expected a name ending in .svg or .png")
    return suffix


def _svg(shape: tuple) -> str:
    kind, *rest = shape
    if kind == "line":
        points, colour, width = rest
        listed = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        return f'<polyline points="{listed}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
    if kind == "box":
        x, y, width, height, colour = rest
        return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>'
    if kind == "text":
        x, y, text, anchor, colour = rest
        return (
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" dominant-baseline="central" '
            f'fill="{colour}">{escape(text)}</text>'
        )
    x, y, width, height, pixels = rest
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )


@dataclass(frozen=True)
class Axes:
    """A frame with numbers: what lies within `x_range` and `y_range` is drawn in it."""

    drawing: Drawing
    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies on the drawing."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return (
            self.left + (x - x0) / (x1 - x0) * self.width,
            self.top + (y1 - y) / (y1 - y0) * self.height,
        )

    def frame(self, title: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        """Border, grid lines with their numbers, title above."""
        right, bottom = self.left + self.width, self.top + self.height
        self.drawing.text((self.left + right) / 2, self.top - 12, title, "middle")
        for x in x_ticks:
            at = self.place(x, self.y_range[0])[0]
            self.drawing.line([(at, self.top), (at, bottom)], "#dddddd", 0.5)
            self.drawing.text(at, bottom + 12, f"{x:g}", "middle", "#555555")
        for y in y_ticks:
            at = self.place(self.x_range[0], y)[1]
            self.drawing.line([(self.left, at), (right, at)], "#dddddd", 0.5)
            self.drawing.text(self.left - 6, at, f"{y:g}", "end", "#555555")
        corners = [(self.left, self.top), (right, self.top), (right, bottom), (self.left, bottom)]
        self.drawing.line([*corners, corners[0]], "#888888")

    def plot(self, x: np.ndarray, y: np.ndarray, colour: str) -> None:
        """A line; values beyond the range run along its edge."""
        y = np.clip(y, *self.y_range)
        self.drawing.line([self.place(*point) for point in zip(x, y, strict=True)], colour, 1.5)
