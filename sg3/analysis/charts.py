"""Charts in one style, on matplotlib: reproducible SVG files with selectable text, and PNG files.

    figure = charts.new_figure(7, 3)                     # inches
    axes = charts.style_axes(figure.subplots(), "loss", xlabel="step")
    axes.plot(steps, losses, color=charts.COLORS[1])
    charts.save_figure(figure, "loss.svg")

Figures are made without pyplot, so nothing is registered anywhere and any thread may draw.
matplotlib is imported with the first figure.
"""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sg3.errors import UserError
from sg3.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

#: Color-blind safe (Okabe and Ito 2008), black first.
COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GRID, FRAME, LABEL = "#e4e4e4", "#b0b0b0", "#444444"
FONT_SIZE = 9
PNG_DPI = 200

# The SVG backend reads its options from matplotlib's global settings alone, so they are set while
# a file is written and put back afterwards; the lock keeps threads from mixing them up.
_SVG_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "sg3"}
_lock = threading.Lock()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of this size in inches, laid out automatically."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)  # inches
    return Figure(figsize=(width, height), dpi=PNG_DPI, facecolor="white", layout=layout)


def style_axes(
    axes: Axes, title: str | None = None, xlabel: str | None = None, ylabel: str | None = None
) -> Axes:
    """Give `axes` a light grid, a thin frame and small labels, and return them."""
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FRAME)
        spine.set_linewidth(0.8)
    axes.tick_params(labelsize=FONT_SIZE - 1, labelcolor=LABEL, color=FRAME, length=3, width=0.8)
    _label(axes, title, xlabel, ylabel)
    return axes


def show_image(axes: Axes, pixels: np.ndarray, title: str | None = None) -> Axes:
    """Show uint8 `[H, W, 3]` with sharp pixels and without ticks or frame."""
    axes.imshow(pixels, interpolation="none")
    axes.set_axis_off()
    _label(axes, title, None, None)
    return axes


def add_legend(axes: Axes | Figure | SubFigure, **options: Any) -> None:
    """Add a frameless legend; `options` are those of matplotlib."""
    defaults = {"frameon": False, "fontsize": FONT_SIZE - 1, "handlelength": 1.6}
    for text in axes.legend(**(defaults | options)).get_texts():
        text.set_parse_math(False)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a `.svg` or `.png` atomically; equal figures give equal bytes.

    Raises ValueError for another suffix.
    """
    suffix = check_suffix(path)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        _write(figure, file, suffix)


def svg_text(figure: Figure) -> str:
    """Return `figure` as the text of an SVG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, ".svg")
    return buffer.getvalue().decode("utf-8")


def check_suffix(path: str | Path) -> str:
    """Return ".svg" or ".png", whichever `path` ends in. Raises ValueError for anything else."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise UserError(f"{path}: expected a name ending in .svg or .png")
    return suffix


def _label(axes: Axes, title: str | None, xlabel: str | None, ylabel: str | None) -> None:
    if title:
        axes.set_title(title, fontsize=FONT_SIZE, pad=6, parse_math=False)
    if xlabel:
        axes.set_xlabel(xlabel, fontsize=FONT_SIZE - 1, color=LABEL)
    if ylabel:
        axes.set_ylabel(ylabel, fontsize=FONT_SIZE - 1, color=LABEL)


def _write(figure: Figure, file: BinaryIO, suffix: str) -> None:
    import matplotlib

    # Without a date and a version, the bytes depend on the figure alone.
    metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
    with _lock, matplotlib.rc_context(_SVG_SETTINGS), warnings.catch_warnings():
        # Names and prompts may be in any script; viewers of an SVG bring their own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        if figure.get_layout_engine() is not None:
            # Each drawing would move the axes a little further: let them settle, then keep them.
            for _ in range(2):
                figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(file, format=suffix[1:], metadata=metadata)
