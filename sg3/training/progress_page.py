"""A run's folder as one page that needs nothing else: curves, pictures, options."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from sg3.files import write_text
from sg3.training.report import format_seconds

PAGE = "progress.html"
TEMPLATE = Path(__file__).with_name("progress_page.html")
MAX_POINTS = 500
MAX_FAKES = 12
MAX_WIDTH_PX = 1024  # of embedded pictures
LOG_LINES = 40

#: Title → (name in the legend, where its value lies in a tick's record).
CHARTS: dict[str, list[tuple[str, str]]] = {
    "Loss": [("G", "Loss/G/loss"), ("D", "Loss/D/loss")],
    "Scores of D": [("real", "Loss/scores/real"), ("fake", "Loss/scores/fake")],
    "Signs of D": [("real", "Loss/signs/real"), ("fake", "Loss/signs/fake")],
    "R1 penalty": [("real", "Loss/r1_penalty"), ("fake (R2)", "Loss/r2_penalty")],
    "Path length penalty": [("G", "Loss/pl_penalty")],
    "Augmentation p": [("p", "augment_p")],
    "Variety of the grid": [("features' spread", "grid_diversity")],
    "Seconds per kimg": [("seconds", "sec_per_kimg")],
    "Memory in GiB": [("process", "cpu_mem_gb"), ("GPU", "gpu_mem_gb")],
}
WITH_BAND = ("Scores of D",)
FROM_ZERO = ("Augmentation p", "Seconds per kimg", "Memory in GiB")


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
        kimg = record.get("progress", {}).get("kimg")
        if kimg is None:
            continue
        while ticks and ticks[-1]["progress"]["kimg"] >= kimg:
            ticks.pop()
        ticks.append(record)
    return ticks


def _value(tick: dict, name: str, part: str = "mean") -> float | None:
    if name in tick["progress"]:
        return tick["progress"][name] if part == "mean" else None
    return tick.get(name, {}).get(part)


def _thin(points: list) -> list:
    step = max(1, -(-len(points) // MAX_POINTS))
    thinned = points[::step]
    return thinned if not points or thinned[-1] is points[-1] else [*thinned, points[-1]]


def _series(ticks: list[dict], name: str, field: str, band: bool) -> dict | None:
    known = _thin([tick for tick in ticks if _value(tick, field) is not None])
    if not known:
        return None
    series = {
        "name": name,
        "x": [tick["progress"]["kimg"] for tick in known],
        "y": [_value(tick, field) for tick in known],
    }
    return series | {"std": [_value(tick, field, "std") for tick in known]} if band else series


def collect_charts(folder: Path, ticks: list[dict]) -> list[dict]:
    """Charts that have anything to show: metrics first, then `CHARTS`."""
    charts = list(_metric_charts(folder))
    for title, lines in CHARTS.items():
        band = title in WITH_BAND
        series = [s for name, field in lines if (s := _series(ticks, name, field, band))]
        if series:
            charts.append({"title": title, "series": series, "zero": title in FROM_ZERO})
    return charts


def _metric_charts(folder: Path) -> Iterable[dict]:
    for path in sorted(folder.glob("metric-*.jsonl")):
        lines: dict[str, dict[float, float]] = {}
        for record in read_jsonl(path):
            kimg = record.get("kimg", _kimg_of(str(record.get("snapshot") or "")))
            for name, value in (record.get("results") or {}).items():
                if kimg is not None and isinstance(value, (int, float)):
                    lines.setdefault(name, {})[kimg] = value
        series = [
            {"name": name, "x": sorted(points), "y": [points[x] for x in sorted(points)]}
            for name, points in lines.items()
        ]
        if series:
            yield {"title": path.stem.removeprefix("metric-"), "series": series, "zero": True}


def _kimg_of(name: str) -> float | None:
    found = re.search(r"(\d+)\.\w+$", name)
    return float(found[1]) if found else None


@functools.lru_cache(maxsize=64)
def _embedded(path: Path, modified: float) -> str:
    """A picture as a data address: JPEG, no wider than `MAX_WIDTH_PX`."""
    with Image.open(path) as image:
        image.thumbnail((MAX_WIDTH_PX, MAX_WIDTH_PX * 4))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def embed(path: Path) -> str | None:
    """`path` as a data address, or None if it is not a picture (yet)."""
    try:
        return _embedded(path, path.stat().st_mtime)
    except (OSError, SyntaxError):
        return None


def collect_fakes(folder: Path) -> list[dict]:
    """Up to `MAX_FAKES` grids, evenly chosen, the newest last."""
    paths = sorted(folder.glob("fakes[0-9]*.png"))
    first = folder / "fakes_init.png"
    paths = [first, *paths] if first.is_file() else paths
    if len(paths) > MAX_FAKES:
        last = len(paths) - 1
        paths = [paths[round(i * last / (MAX_FAKES - 1))] for i in range(MAX_FAKES)]
    named = [(path, _kimg_of(path.name)) for path in paths]
    return [
        {"name": "before" if kimg is None else f"{kimg:g} kimg", "source": source}
        for path, kimg in named
        if (source := embed(path))
    ]


def _facts(ticks: list[dict], total_kimg: float | None) -> list[tuple[str, str]]:
    if not ticks:
        return [("–", "nothing yet")]
    progress = ticks[-1]["progress"]
    kimg, speed = progress["kimg"], progress.get("sec_per_kimg")
    facts = [(f"{kimg:,.1f}", f"of {total_kimg:,g} kimg" if total_kimg else "kimg")]
    if speed is not None:
        facts.append((f"{speed:.1f}", "seconds per kimg"))
    facts.append((format_seconds(progress.get("total_seconds", 0)), "so far"))
    if speed is not None and total_kimg and kimg < total_kimg:
        facts.append((format_seconds((total_kimg - kimg) * speed), "to go"))
    if progress.get("augment_p") is not None:
        facts.append((f"{progress['augment_p']:.3f}", "augmentation p"))
    if progress.get("nonfinite_gradients"):
        facts.append((str(progress["nonfinite_gradients"]), "non-finite gradients"))
    return facts


def collect(folder: Path) -> dict:
    """Everything the page shows, JSON-able."""
    ticks = read_ticks(folder)
    options = _read_options(folder / "training_options.json")
    log = folder / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    total, kimg = options.get("kimg"), ticks[-1]["progress"]["kimg"] if ticks else 0
    return {
        "title": folder.name,
        "start": lines[0] if lines else "",
        "facts": _facts(ticks, total),
        "share": min(kimg / total, 1) if total else 0,
        "finished": bool(total) and kimg >= total,
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
    data = json.dumps(_finite(collect(folder)), ensure_ascii=False).replace("</", "<\\/")
    page = TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data)
    write_text(folder / PAGE, page)
    return folder / PAGE
