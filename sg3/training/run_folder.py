"""Names of run folders (REFERENCE.md §4.8), and finding the one to go on with."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from sg3.errors import UserError
from sg3.training.config import TrainConfig
from sg3.training.state import state_paths

OPTIONS = "config.json"
LOCK = ".lock"


def run_description(config: TrainConfig, dataset_name: str, num_processes: int = 1) -> str:
    """The part of the folder name after the number, from a resolved `config`."""
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
    """Whether `folder` is a run's own folder rather than one of runs."""
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
        except FileExistsError:  # a run that started at the same moment
            continue
        return folder


def claim(folder: Path) -> IO:
    """Make this process the one that writes to the run in `folder`, until it ends or closes this.

    Raises UserError if another one does. Where files cannot be locked nothing is checked.
    """
    file = open(folder / LOCK, "a+")  # noqa: SIM115 - open as long as the claim
    if fcntl is None:
        return file
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise UserError(
                f"--resume: another process is training in {folder}; wait for it, or stop it"
            ) from None
    return file


def latest_run_folder(outdir: str | Path, description: str) -> Path | None:
    """The newest folder of the same description that holds a training state, or None.

    The number of processes may differ: a run goes on with as many as there are.
    """
    wanted = _without_processes(description)
    same = [p for _, p in _numbered(Path(outdir)) if _without_processes(p.name) == wanted]
    same = [p for p in same if p.is_dir() and state_paths(p)]
    return same[-1] if same else None


def _without_processes(name: str) -> str:
    return re.sub(r"-gpus\d+-", "-", re.sub(r"^\d+-", "", name))
