"""The folder of a run: its name, its lock, and the files that others find in it.

    config.json                    options and network arguments
    log.txt, stats.jsonl           one line per tick, and advice; all statistics
    reals.png, fakes*.png          image grids
    network-KIMG.safetensors       snapshots (names: `sg3.checkpoints.snapshot_names`)
    best-METRIC.safetensors        the best of them by the first metric
    ema-KIMG.safetensors           averages for post-hoc EMA
    training-state-IMAGES.pt       training states
    metric-NAME.jsonl              metrics of the snapshots
    events.out.tfevents.*          TensorBoard, if it is installed
    wandb-id.txt                   id of the run at wandb, with `log` wandb
    progress.html                  all of this as a page

Names and layouts are those of REFERENCE.md §4.8 and §4.9. `run_writer` writes most of it.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sg3.errors import UserError
from sg3.system import lock
from sg3.training.config import TrainConfig

OPTIONS = "config.json"
LOCK = ".lock"
STATE = re.compile(r"training-state-(\d+)\.pt")


def run_description(config: TrainConfig, dataset_name: str, num_processes: int = 1) -> str:
    """Return the folder name after the number, for a resolved `config`."""
    name = (
        f"{config.cfg}-{dataset_name}-gpus{num_processes}-batch{config.batch}-gamma{config.gamma:g}"
    )
    return f"{name}-{config.desc}" if config.desc else name


def _numbered(outdir: Path) -> list[tuple[int, Path]]:
    if not outdir.is_dir():
        return []
    found = [(re.match(r"\d+", p.name), p) for p in outdir.iterdir()]
    return sorted((int(m.group()), p) for m, p in found if m)


def is_run_folder(folder: str | Path) -> bool:
    """Whether `folder` belongs to one run, rather than being the parent of runs."""
    return (Path(folder) / OPTIONS).is_file()


def new_run_folder(outdir: str | Path, description: str) -> Path:
    """Create `NNNNN-description` with the next free number."""
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    while True:
        number = max((n for n, _ in _numbered(outdir)), default=-1) + 1
        folder = outdir / f"{number:05d}-{description}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run started at the same moment
            continue
        return folder


def latest_run_folder(outdir: str | Path, description: str) -> Path | None:
    """Return the newest folder with this description that holds a training state, or None.

    The number of processes may differ, as a run can resume with any.
    """
    wanted = _without_processes(description)
    same = [p for _, p in _numbered(Path(outdir)) if _without_processes(p.name) == wanted]
    same = [p for p in same if p.is_dir() and state_paths(p)]
    return same[-1] if same else None


def _without_processes(name: str) -> str:
    return re.sub(r"-gpus\d+-", "-", re.sub(r"^\d+-", "", name))


def claim(folder: Path) -> IO[str]:
    """Lock a run's folder for this process until the returned file is closed.

    Raises UserError if another process holds the lock. Without file locks nothing is checked.
    """
    file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the claim
    if not lock(file, wait=False):
        file.close()
        raise UserError(
            f"resume: another process is training in {folder}; stop it, or wait for its end"
        )
    return file


def state_path(folder: Path, nimg: int) -> Path:
    """Return the path of the state after `nimg` images."""
    return folder / f"training-state-{nimg:010d}.pt"


def state_paths(folder: Path) -> list[Path]:
    """Return the states in a run's folder, oldest first."""
    return sorted(p for p in folder.iterdir() if STATE.fullmatch(p.name))


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append `record` as one line of JSON, with null for NaN."""
    with open(path, "ab+") as file:
        if file.tell() and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")  # a crash truncated the last line
        file.write(json.dumps(_null_for_nan(record)).encode() + b"\n")


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _null_for_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and value != value else value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON lines file; lines that a crash truncated are skipped."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


def format_seconds(seconds: float) -> str:
    """Format a duration like 1d 02h 03m, 2h 03m 04s, 3m 04s or 4s."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02d}m {s % 60:02d}s"
    return f"{s // 86400}d {s // 3600 % 24:02d}h {s // 60 % 60:02d}m"
