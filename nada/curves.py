"""The curves of an adaptation as one SVG picture: loss; agreement and length; diversity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, PANEL, TOP, LEFT, RIGHT, GAP = 720, 150, 34, 56, 14, 44
BLUE, ORANGE, GREEN, GREY = "#1f6fb4", "#d95f02", "#1b8a5a", "#8a8a8a"
#: Share of the old in the smoothed loss.
SMOOTHING = 0.9


@dataclass(frozen=True)
class Line:
    """A curve through `points` (step, value); `faint` for one behind another."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    faint: bool = False


def draw_curves(records: Sequence[dict], title: str, floor: float | None = None) -> str:
    """SVG of the `records` of stats.jsonl, with a dashed line at the `floor` of diversity."""
    loss = _points(records, "loss")
    panels = [
        [Line("", BLUE, loss, faint=True), Line("loss, smoothed", BLUE, _smooth(loss))],
        [
            Line("agreement with the target", ORANGE, _points(records, "agreement")),
            Line("length of the change", GREEN, _points(records, "length")),
        ],
        [Line("diversity", BLUE, _points(records, "diversity"))],
    ]
    if floor:
        ends = [min((r["step"] for r in records), default=0), _last_step(records)]
        panels[2].append(Line("floor", GREY, [(x, floor) for x in ends]))
    height = TOP + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for i, lines in enumerate(panels):
        parts += _panel(lines, TOP + 22 + i * (PANEL + GAP), _last_step(records))
    return "\n".join([*parts, "</svg>", ""])


def _last_step(records: Sequence[dict]) -> float:
    return max((record["step"] for record in records), default=0)


def _points(records: Sequence[dict], field: str) -> list[tuple[float, float]]:
    known = [(record["step"], record.get(field)) for record in records]
    return [(x, y) for x, y in known if y is not None and math.isfinite(y)]


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Averages that forget, without a pull towards where they began."""
    smoothed, total, weight = [], 0.0, 0.0
    for x, y in points:
        total = SMOOTHING * total + (1 - SMOOTHING) * y
        weight = SMOOTHING * weight + 1 - SMOOTHING
        smoothed.append((x, total / weight))
    return smoothed


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers from `low` to `high`."""
    raw = max(high - low, 1e-9) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _panel(lines: Sequence[Line], top: float, last_step: float) -> list[str]:
    """Axes, grid, curves and legend of one panel whose upper edge is at `top`."""
    values = [y for line in lines for _, y in line.points] or [0.0]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1
    width = WIDTH - LEFT - RIGHT

    def x_of(step: float) -> float:
        return LEFT + width * step / max(last_step, 1)

    def y_of(value: float) -> float:
        return top + PANEL * (high - value) / (high - low)

    parts = []
    for value in _ticks(low, high, 4):
        y = y_of(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{width}" stroke="#e2e2e2"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step in _ticks(0, max(last_step, 1), 6):
        x, y = x_of(step), top + PANEL + 15
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle" fill="#666">{step:g}</text>')
    for line in lines:
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        style = ' stroke-opacity="0.3"' if line.faint else ' stroke-width="2"'
        style += ' stroke-dasharray="6 4"' if line.colour == GREY else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}"{style}/>')
    x = LEFT
    for line in lines:
        if line.name:
            parts.append(f'<text x="{x}" y="{top - 7}" fill="{line.colour}">{line.name}</text>')
            x += 6 * len(line.name) + 30
    return parts
