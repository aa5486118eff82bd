"""The progress page of a run: one self-contained HTML file with curves, images and options."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from sg3.checkpoints.snapshot_names import kimg_in_name
from sg3.files import parse_json, write_text
from sg3.metrics.registry import higher_is_better
from sg3.training.run_folder import OPTIONS, format_seconds, read_jsonl

PAGE = "progress.html"
TEMPLATE = Path(__file__).with_name("progress_page.html")
MAX_POINTS = 500
MAX_FAKES = 12
#: Maximum width and height in pixels, and bytes, of an embedded image: 1.6 MB for all together.
LARGE, SMALL = (1024, 1024, 240_000), (640, 640, 60_000)
LOG_LINES = 40
PACE_TICKS = 10  # their median speed gives the remaining time

#: Title → (name in the legend, field of a tick's record).
CHARTS: dict[str, list[tuple[str, str]]] = {
    "Loss": [("G", "Loss/G/loss"), ("D", "Loss/D/loss")],
    "Scores of D": [("real", "Loss/scores/real"), ("fake", "Loss/scores/fake")],
    "Signs of D": [("real", "Loss/signs/real"), ("fake", "Loss/signs/fake")],
    "R1 penalty": [("real", "Loss/r1_penalty"), ("fake (R2)", "Loss/r2_penalty")],
    "Path length penalty": [("G", "Loss/pl_penalty")],
    "Augmentation p": [("p", "augment_p")],
    "Diversity of the grid": [("relative to real images", "grid_diversity")],
    "Seconds per kimg": [("seconds", "sec_per_kimg")],
    "Memory in GiB": [("process", "cpu_mem_gb"), ("GPU", "gpu_mem_gb")],
}
WITH_BAND = ("Scores of D",)
FROM_ZERO = ("Augmentation p", "Diversity of the grid", "Seconds per kimg", "Memory in GiB")
WITHOUT_OUTLIERS = ("Seconds per kimg",)  # compilation makes the first tick slow

#: kimg, mean and standard deviation; None where a value is not a finite number.
Point = tuple[float | None, float | None, float | None]


def read_ticks(folder: Path) -> list[dict[str, Any]]:
    """Return the ticks in order of kimg; ticks that a resumed run repeated appear once."""
    ticks: list[dict[str, Any]] = []
    for record in read_jsonl(folder / "stats.jsonl"):
        progress = record.get("progress")
        if not isinstance(progress, dict) or _number(progress.get("kimg")) is None:
            continue
        while ticks and ticks[-1]["progress"]["kimg"] >= progress["kimg"]:
            ticks.pop()
        ticks.append(record)
    return ticks


def _number(value: Any) -> float | None:
    """Return `value` rounded to six digits, or None if it is not a finite number."""
    # Not math.isfinite, which cannot take large integers.
    if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:
        return float(f"{value:.6g}")
    return None


def _point(tick: dict[str, Any], field: str) -> Point | None:
    progress = tick["progress"]
    if field in progress:
        return _number(progress["kimg"]), _number(progress[field]), None
    moments = tick.get(field)
    if not isinstance(moments, dict):
        return None
    kimg, mean, std = progress["kimg"], moments.get("mean"), moments.get("std")
    return _number(kimg), _number(mean), _number(std)


def _thin(points: list[Point]) -> list[Point]:
    """Keep at most `MAX_POINTS`: the lowest and highest of every bin, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points

    def height(i: int) -> float:
        mean = points[i][1]
        return -math.inf if mean is None else mean

    size = math.ceil(2 * len(points) / (MAX_POINTS - 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        bin_ = range(start, min(start + size, len(points)))
        kept |= {min(bin_, key=height), max(bin_, key=height)}
    return [points[i] for i in sorted(kept)]


def _series(ticks: list[dict], name: str, field: str, band: bool) -> dict[str, Any] | None:
    points = _thin([point for tick in ticks if (point := _point(tick, field))])
    if not points:
        return None
    x, y, std = (list(column) for column in zip(*points, strict=True))
    return {"name": name, "x": x, "y": y} | ({"std": std} if band else {})


def collect_charts(folder: Path, ticks: list[dict]) -> list[dict[str, Any]]:
    """Return all charts that have data: metrics first, then `CHARTS`."""
    charts = list(_metric_charts(folder))
    for title, lines in CHARTS.items():
        band = title in WITH_BAND
        series = [s for name, field in lines if (s := _series(ticks, name, field, band))]
        if series:
            how = {"zero": title in FROM_ZERO, "trim": title in WITHOUT_OUTLIERS}
            charts.append({"title": title, "series": series, **how})
    return charts


def _metric_charts(folder: Path) -> Iterable[dict[str, Any]]:
    for path in sorted(folder.glob("metric-*.jsonl")):
        lines: dict[str, dict[float, float]] = {}
        for record in read_jsonl(path):
            # `snapshot_pkl` is the key of the official trainer.
            snapshot = record.get("snapshot") or record.get("snapshot_pkl")
            kimg = _number(record.get("kimg", kimg_in_name(str(snapshot or ""))))
            results = record.get("results")
            for name, value in (results if isinstance(results, dict) else {}).items():
                number = _number(value)
                if kimg is not None and number is not None:
                    lines.setdefault(name, {})[kimg] = number
        series = [
            {"name": name, "x": sorted(points), "y": [points[x] for x in sorted(points)]}
            for name, points in lines.items()
        ]
        title = path.stem.removeprefix("metric-")
        if series:
            yield {"title": title, "series": series, "note": _best(title, series[0]), "zero": True}


def _best(title: str, series: dict[str, Any]) -> str:
    higher = higher_is_better(title)
    if higher is None:
        return ""
    best = (max if higher else min)(series["y"])
    word = "highest" if higher else "lowest"
    return f"{word} {best:.4g} at {series['x'][series['y'].index(best)]:g} kimg"


@functools.lru_cache(maxsize=64)
def _embedded(path: Path, modified: float, limits: tuple[int, int, int]) -> dict[str, Any]:
    width, height, max_bytes = limits
    with Image.open(path) as file:
        file.thumbnail((width, height))
        image = file.convert("RGB")
    for quality in (80, 70, 60, 50, 40, 30, 20, 10):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= max_bytes:
            break
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"file": path.name, "source": source, "size": image.size}


def embed(path: Path, limits: tuple[int, int, int] = LARGE) -> dict[str, Any] | None:
    """Return file name, size in pixels, and the image as a JPEG data URL.

    None if the file is missing, incomplete, or too large for Pillow.
    """
    try:
        return _embedded(path, path.stat().st_mtime, limits)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def collect_fakes(folder: Path) -> list[dict[str, Any]]:
    """Return up to `MAX_FAKES` evenly spaced grids, the newest last and larger than the others.

    Steps are powers of two, so that a new grid rarely changes the choice of the old ones, whose
    encoding is cached.
    """
    paths = sorted(folder.glob("fakes[0-9]*.png"))
    first = folder / "fakes_init.png"
    *paths, newest = [first, *paths] if first.is_file() else paths or [first]
    step = 1
    while math.ceil(len(paths) / step) >= MAX_FAKES:
        step *= 2
    images = [embed(path, SMALL) for path in paths[::step]] + [embed(newest)]
    return [_named(image) for image in images if image]


def _named(image: dict[str, Any]) -> dict[str, Any]:
    kimg = kimg_in_name(image["file"])
    return {"name": "untrained" if kimg is None else f"{kimg:g} kimg", **image}


def _facts(ticks: list[dict], total_kimg: float | None) -> list[tuple[str, str]]:
    """Return the numbers at the top of the page: value and caption."""
    if not ticks:
        return [("–", "no ticks yet")]
    progress = {name: _number(value) for name, value in ticks[-1]["progress"].items()}
    kimg, spent = progress["kimg"] or 0.0, progress.get("total_seconds")
    facts = [(f"{kimg:,.1f}", f"of {total_kimg:,g} kimg" if total_kimg else "kimg")]
    paces = [_number(tick["progress"].get("sec_per_kimg")) for tick in ticks[-PACE_TICKS:]]
    pace = statistics.median(known) if (known := [p for p in paces if p is not None]) else None
    if pace is not None:
        facts.append((f"{pace:.3g}" if pace < 100 else f"{pace:.0f}", "seconds per kimg"))
    if spent is not None:
        facts.append((format_seconds(spent), "elapsed"))
    left = progress.get("eta_seconds")  # earlier versions did not write it
    if left is None and pace is not None and total_kimg:
        left = (total_kimg - kimg) * pace
    if left is not None and total_kimg and kimg < total_kimg:
        facts.append((format_seconds(left), "remaining"))
    if progress.get("augment_p") is not None:
        facts.append((f"{progress['augment_p']:.3f}", "augmentation p"))
    if progress.get("nonfinite_gradients"):
        facts.append((f"{progress['nonfinite_gradients']:,.0f}", "non-finite gradients"))
    return facts


def collect(folder: Path) -> dict[str, Any]:
    """Return everything that the page shows, as JSON-able values."""
    ticks = read_ticks(folder)
    options = _read_options(folder / OPTIONS)
    log = folder / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    total = _number(options.get("kimg")) or 0
    kimg = ticks[-1]["progress"]["kimg"] if ticks else 0
    return {
        "title": folder.name,
        "start": lines[0] if lines else "",
        "facts": _facts(ticks, total),
        "fraction": min(kimg / total, 1) if total else 0,
        "finished": 0 < total <= kimg,
        "updated": ticks[-1].get("timestamp") if ticks else None,
        "advice": [line.removeprefix("advice: ") for line in lines if line.startswith("advice: ")],
        "charts": collect_charts(folder, ticks),
        "fakes": collect_fakes(folder),
        "reals": embed(folder / "reals.png"),
        "options": options,
        "log": "\n".join(lines[-LOG_LINES:]),
    }


def _read_options(path: Path) -> dict[str, Any]:
    try:
        options = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return options if isinstance(options, dict) else {}


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which are not valid JSON, by None."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def write_progress_page(folder: str | Path) -> Path:
    """Write `progress.html` of the run in `folder` atomically and return its path.

    Only reads the files in the folder, whatever state a crash left them in.
    """
    folder = Path(folder)
    # Without "<" no text in it can end the script element.
    data = json.dumps(_finite(collect(folder))).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data)
    write_text(folder / PAGE, page)
    return folder / PAGE
