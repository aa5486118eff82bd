"""A chart of an adaptation's statistics: loss; agreement and length of the change; diversity."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sg3.analysis import charts

BLUE, ORANGE, GREEN = charts.COLORS[1:4]
#: Weight of the past in the smoothed loss.
SMOOTHING = 0.9


def draw_curves(records: Sequence[dict], title: str, floor: float | None = None) -> str:
    """Return the curves of an adaptation as the text of an SVG file.

    Args:
        records: the lines of stats.jsonl; values that are missing or not finite are left out.
        title: shown above the curves.
        floor: minimum diversity of the stop rule, drawn as a dashed line.
    """
    figure = charts.new_figure(7.5, 6.2)
    figure.suptitle(title, fontsize=charts.FONT_SIZE + 1, parse_math=False)
    loss, change, diversity = figure.subplots(3, 1, sharex=True)
    steps, values = _series(records, "loss")
    loss.plot(steps, values, color=BLUE, alpha=0.3, linewidth=1)
    loss.plot(steps, _smooth(values), color=BLUE, label="loss, smoothed")
    for name, color, label in (
        ("agreement", ORANGE, "agreement with the target"),
        ("length", GREEN, "length of the change"),
    ):
        change.plot(*_series(records, name), color=color, label=label)
    diversity.plot(*_series(records, "diversity"), color=BLUE, label="diversity")
    if floor:
        diversity.axhline(
            floor, color=charts.LABEL, linewidth=1, linestyle="--", label="minimum diversity"
        )
    for axes in (loss, change, diversity):
        charts.style_axes(axes)
        axes.set_ylim(_limits([y for line in axes.lines for y in line.get_ydata()]))
        charts.add_legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0.2)
    last = max((record["step"] for record in records), default=0)
    diversity.set_xlim(0, max(last, 1))
    diversity.set_xlabel("step", fontsize=charts.FONT_SIZE - 1, color=charts.LABEL)
    return charts.svg_text(figure)


def _series(records: Sequence[dict], field: str) -> tuple[list[float], list[float]]:
    """Return the steps and values of a field where it is a finite number."""
    found = [(record["step"], record.get(field)) for record in records]
    kept = [(step, value) for step, value in found if value is not None and math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return y limits that keep zero in view, so that small changes do not look large."""
    low, high = min([0, *values]), max([0, *values])
    margin = 0.06 * (high - low) or 1
    return low - margin * (low < 0), high + margin


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average, bias-corrected as in Adam (arXiv 1412.6980 §3)."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + 1 - SMOOTHING
        smoothed.append(total / weight)
    return smoothed
