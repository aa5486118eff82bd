"""A run's folder as one page that needs nothing else: curves, pictures, options."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from sg3.files import write_text
from sg3.training.report import format_seconds
from sg3.training.run_folder import OPTIONS

PAGE = "progress.html"
TEMPLATE = Path(__file__).with_name("progress_page.html")
MAX_POINTS = 500
MAX_FAKES = 12
#: Width and height in pixels, and bytes, of an embedded picture: all of them stay below 1.6 MB.
LARGE, SMALL = (1024, 1024, 240_000), (640, 640, 60_000)
LOG_LINES = 40
PACE_TICKS = 10  # whose median speed tells how long the rest takes
LOWER_IS_BETTER = ("fid", "kid", "ppl")

#: Title → (name in the legend, where its value lies in a tick's record).
CHARTS: dict[str, list[tuple[str, str]]] = {
    "Loss": [("G", "Loss/G/loss"), ("D", "Loss/D/loss")],
    "Scores of D": [("real", "Loss/scores/real"), ("fake", "Loss/scores/fake")],
    "Signs of D": [("real", "Loss/signs/real"), ("fake", "Loss/signs/fake")],
    "R1 penalty": [("real", "Loss/r1_penalty"), ("fake (R2)", "Loss/r2_penalty")],
    "Path length penalty": [("G", "Loss/pl_penalty")],
    "Augmentation p": [("p", "augment_p")],
    "Variety of the grid": [("distance to the most similar", "grid_diversity")],
    "Seconds per kimg": [("seconds", "sec_per_kimg")],
    "Memory in GiB": [("process", "cpu_mem_gb"), ("GPU", "gpu_mem_gb")],
}
WITH_BAND = ("Scores of D",)
FROM_ZERO = ("Augmentation p", "Variety of the grid", "Seconds per kimg", "Memory in GiB")
WITHOUT_OUTLIERS = ("Seconds per kimg",)  # the first tick compiles and warms up


def read_jsonl(path: Path) -> list[dict]:
    """Records of a JSON lines file; a line that a crash cut off is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def read_ticks(folder: Path) -> list[dict]:
    """Ticks by kimg; of a run that went back to an earlier state, only what it did last."""
    ticks: list[dict] = []
    for record in read_jsonl(folder / "stats.jsonl"):
        progress = record.get("progress")
        kimg = _number(progress.get("kimg")) if isinstance(progress, dict) else None
        if kimg is None:
            continue
        while ticks and ticks[-1]["progress"]["kimg"] >= progress["kimg"]:
            ticks.pop()
        ticks.append(record)
    return ticks


def _number(value) -> float | None:
    """`value` to six digits; None for what is no number, or not a finite one."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(f"{value:.6g}")
    return None


def _point(tick: dict, field: str) -> tuple[float, float | None, float | None] | None:
    """kimg, mean and standard deviation, None in them for what was not a number."""
    progress = tick["progress"]
    if field in progress:
        return _number(progress["kimg"]), _number(progress[field]), None
    moments = tick.get(field)
    if not isinstance(moments, dict):
        return None
    return tuple(map(_number, (progress["kimg"], moments.get("mean"), moments.get("std"))))


def _thin(points: list[tuple]) -> list[tuple]:
    """At most `MAX_POINTS`: the lowest and highest of every stretch, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points

    def height(i: int) -> float:
        return -math.inf if points[i][1] is None else points[i][1]

    size = math.ceil(2 * len(points) / (MAX_POINTS - 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        kept |= {min(stretch, key=height), max(stretch, key=height)}
    return [points[i] for i in sorted(kept)]


def _series(ticks: list[dict], name: str, field: str, band: bool) -> dict | None:
    points = _thin([point for tick in ticks if (point := _point(tick, field))])
    if not points:
        return None
    x, y, std = (list(column) for column in zip(*points, strict=True))
    return {"name": name, "x": x, "y": y} | ({"std": std} if band else {})


def collect_charts(folder: Path, ticks: list[dict]) -> list[dict]:
    """Charts that have anything to show: metrics first, then `CHARTS`."""
    charts = list(_metric_charts(folder))
    for title, lines in CHARTS.items():
        band = title in WITH_BAND
        series = [s for name, field in lines if (s := _series(ticks, name, field, band))]
        if series:
            how = {"zero": title in FROM_ZERO, "trim": title in WITHOUT_OUTLIERS}
            charts.append({"title": title, "series": series, **how})
    return charts


def _metric_charts(folder: Path) -> Iterable[dict]:
    for path in sorted(folder.glob("metric-*.jsonl")):
        lines: dict[str, dict[float, float]] = {}
        for record in read_jsonl(path):
            # The official trainer says snapshot_pkl.
            snapshot = record.get("snapshot") or record.get("snapshot_pkl")
            kimg = _number(record.get("kimg", _kimg_of(str(snapshot or ""))))
            results = record.get("results")
            for name, value in (results if isinstance(results, dict) else {}).items():
                if kimg is not None and _number(value) is not None:
                    lines.setdefault(name, {})[kimg] = _number(value)
        series = [
            {"name": name, "x": sorted(points), "y": [points[x] for x in sorted(points)]}
            for name, points in lines.items()
        ]
        title = path.stem.removeprefix("metric-")
        if series:
            yield {"title": title, "series": series, "note": _best(title, series[0]), "zero": True}


def _best(title: str, series: dict) -> str:
    if not title.startswith(LOWER_IS_BETTER):
        return ""
    best = min(series["y"])
    return f"lowest {best:.4g} at {series['x'][series['y'].index(best)]:g} kimg"


def _kimg_of(name: str) -> float | None:
    found = re.search(r"(\d+)\.\w+$", name)
    return float(found[1]) if found else None


@functools.lru_cache(maxsize=64)
def _embedded(path: Path, modified: float, limits: tuple[int, int, int]) -> dict:
    width, height, most_bytes = limits
    with Image.open(path) as image:
        image.thumbnail((width, height))
        image = image.convert("RGB")
    for quality in (80, 70, 60, 50, 40, 30, 20, 10):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= most_bytes:
            break
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"file": path.name, "source": source, "size": image.size}


def embed(path: Path, limits: tuple[int, int, int] = LARGE) -> dict | None:
    """The picture's file name, its size in pixels and itself as a JPEG in a data address.

    None if it is not there, not complete (yet), or larger than Pillow likes.
    """
    try:
        return _embedded(path, path.stat().st_mtime, limits)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def collect_fakes(folder: Path) -> list[dict]:
    """Up to `MAX_FAKES` grids, evenly chosen, the newest last and larger than the others.

    Every 1st, 2nd, 4th, … so that a new grid seldom means to read the old ones again.
    """
    paths = sorted(folder.glob("fakes[0-9]*.png"))
    first = folder / "fakes_init.png"
    *paths, newest = [first, *paths] if first.is_file() else paths or [first]
    step = 1
    while math.ceil(len(paths) / step) >= MAX_FAKES:
        step *= 2
    pictures = [embed(path, SMALL) for path in paths[::step]] + [embed(newest)]
    return [_named(picture) for picture in pictures if picture]


def _named(picture: dict) -> dict:
    kimg = _kimg_of(picture["file"])
    return {"name": "before" if kimg is None else f"{kimg:g} kimg", **picture}


def _facts(ticks: list[dict], total_kimg: float | None) -> list[tuple[str, str]]:
    if not ticks:
        return [("–", "nothing yet")]
    progress = {name: _number(value) for name, value in ticks[-1]["progress"].items()}
    kimg, spent = progress["kimg"], progress.get("total_seconds")
    facts = [(f"{kimg:,.1f}", f"of {total_kimg:,g} kimg" if total_kimg else "kimg")]
    paces = [_number(tick["progress"].get("sec_per_kimg")) for tick in ticks[-PACE_TICKS:]]
    pace = statistics.median(known) if (known := [p for p in paces if p is not None]) else None
    if pace is not None:
        facts.append((f"{pace:.3g}" if pace < 100 else f"{pace:.0f}", "seconds per kimg"))
    if spent is not None:
        facts.append((format_seconds(spent), "so far"))
    if pace is not None and total_kimg and kimg < total_kimg:
        facts.append((format_seconds((total_kimg - kimg) * pace), "to go"))
    if progress.get("augment_p") is not None:
        facts.append((f"{progress['augment_p']:.3f}", "augmentation p"))
    if progress.get("nonfinite_gradients"):
        facts.append((f"{progress['nonfinite_gradients']:,.0f}", "non-finite gradients"))
    return facts


def collect(folder: Path) -> dict:
    """Everything the page shows, JSON-able."""
    ticks = read_ticks(folder)
    options = _read_options(folder / OPTIONS)
    log = folder / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    total, kimg = _number(options.get("kimg")), ticks[-1]["progress"]["kimg"] if ticks else 0
    return {
        "title": folder.name,
        "start": lines[0] if lines else "",
        "facts": _facts(ticks, total),
        "share": min(kimg / total, 1) if total else 0,
        "finished": bool(total) and kimg >= total,
        "updated": ticks[-1].get("timestamp") if ticks else None,
        "advice": [line.removeprefix("advice: ") for line in lines if line.startswith("advice: ")],
        "charts": collect_charts(folder, ticks),
        "fakes": collect_fakes(folder),
        "reals": embed(folder / "reals.png"),
        "options": options,
        "log": "\n".join(lines[-LOG_LINES:]),
    }


def _read_options(path: Path) -> dict:
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return options if isinstance(options, dict) else {}


def _finite(value):
    """NaN and infinity become null, which JSON in a browser can read."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def write_progress_page(folder: str | Path) -> Path:
    """Write `progress.html` of the run in `folder`, atomically; returns its path.

    Reads the folder's files only, whatever state a crash left them in.
    """
    folder = Path(folder)
    # Without any "<" nothing in it can end or upset the script element.
    data = json.dumps(_finite(collect(folder))).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data)
    write_text(folder / PAGE, page)
    return folder / PAGE
