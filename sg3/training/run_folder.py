"""Names of run folders (FACTS 4.8), and finding the one to go on with."""

from __future__ import annotations

import re
from pathlib import Path

from sg3.training.config import TrainConfig
from sg3.training.state import FILE_NAME


def run_description(config: TrainConfig, dataset_name: str) -> str:
    """The part of the folder name after the number, from a resolved `config`."""
    name = f"{config.cfg}-{dataset_name}-gpus1-batch{config.batch}-gamma{config.gamma:g}"
    return f"{name}-{config.desc}" if config.desc else name


def _numbered(outdir: Path) -> list[tuple[int, Path]]:
    if not outdir.is_dir():
        return []
    found = [(re.match(r"\d+", p.name), p) for p in outdir.iterdir() if p.is_dir()]
    return sorted((int(m.group()), p) for m, p in found if m)


def new_run_folder(outdir: str | Path, description: str) -> Path:
    """Create `NNNNN-description` with the next free number."""
    outdir = Path(outdir)
    number = max((n for n, _ in _numbered(outdir)), default=-1) + 1
    folder = outdir / f"{number:05d}-{description}"
    folder.mkdir(parents=True)
    return folder


def latest_run_folder(outdir: str | Path, description: str) -> Path | None:
    """The newest folder of the same description that holds a training state, or None."""
    same = [p for _, p in _numbered(Path(outdir)) if re.sub(r"^\d+-", "", p.name) == description]
    same = [p for p in same if (p / FILE_NAME).is_file()]
    return same[-1] if same else None
