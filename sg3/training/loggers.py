"""Callbacks that log to TensorBoard, Weights & Biases, and Trackio.

Their packages are optional, and imported only when `TrainConfig.log` names them. TensorBoard is
also used without being named, if it is installed.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sg3.errors import UserError
from sg3.training.callbacks import Callback, RunInfo, TrainStep

#: Module and pip package of every logger.
MODULES = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
MAX_GRID_PX = 2048  # side of a logged image grid
WANDB_ID = "wandb-id.txt"  # in the run's folder: resumed sessions continue the same run


def make_loggers(names: tuple[str, ...] | None, note: Callable[[str], object]) -> list[Callback]:
    """Return the loggers called `names`; None: TensorBoard where it is installed.

    A logger that fails during training is dropped with one line to `note`: it ends no run.
    Raises UserError with the pip command if a package is missing.
    """
    if names is None:
        return [Guarded("tensorboard", TensorBoardLogger(required=False), note)]
    loggers: list[Callback] = []
    for name in dict.fromkeys(names):
        module = _import(name)
        logger = TensorBoardLogger() if name == "tensorboard" else ModuleLogger(name, module)
        loggers.append(Guarded(name, logger, note))
    return loggers


def check_loggers(names: tuple[str, ...] | None) -> None:
    """Raise UserError with the pip command if the package of a logger is missing."""
    for name in names or ():
        _import(name)


def _import(name: str) -> Any:
    module, package = MODULES[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"log: {name} cannot be used ({error}); pip install {package}") from None


class Guarded(Callback):
    """Passes calls on to a logger until one fails."""

    def __init__(self, name: str, logger: Callback, note: Callable[[str], object]):
        self.name, self.logger, self._note = name, logger, note
        self._alive = True

    def on_start(self, run: RunInfo) -> None:
        try:
            self.logger.on_start(run)
        except Exception as error:  # services fail in their own ways
            self._alive = False
            raise UserError(f"log: {self.name} did not start: {_one_line(error)}") from error

    def on_tick(self, step: TrainStep) -> None:
        self._try(self.logger.on_tick, step)

    def on_snapshot(self, step: TrainStep) -> None:
        self._try(self.logger.on_snapshot, step)

    def on_end(self, step: TrainStep | None) -> None:
        self._try(self.logger.on_end, step)

    def _try(self, call: Callable[[Any], None], step: TrainStep | None) -> None:
        if not self._alive:
            return
        try:
            call(step)
        except Exception as error:
            self._alive = False
            self._note(f"{self.name} failed and gets no more data: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def scalars(step: TrainStep) -> dict[str, float]:
    """Return all numbers of a tick by name."""
    progress = {
        f"Progress/{name}": value
        for name, value in (step.progress or {}).items()
        if isinstance(value, (int, float))
    }
    return progress | {name: moments["mean"] for name, moments in (step.stats or {}).items()}


def read_grid(path: Path) -> Image.Image:
    """Return an image grid as RGB, at most `MAX_GRID_PX` wide and high."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((MAX_GRID_PX, MAX_GRID_PX))
    return image


class TensorBoardLogger(Callback):
    """Writes event files into the run's folder.

    Args:
        required: raise if TensorBoard is missing or broken, and write image grids too. Otherwise
            it is used for numbers where it works.
    """

    def __init__(self, required: bool = True):
        self.required = required
        self._events: Any = None

    def on_start(self, run: RunInfo) -> None:
        self._events = open_events(run.folder, run.nimg if run.resumed else None, self.required)

    def on_tick(self, step: TrainStep) -> None:
        if self._events is not None:
            write_events(self._events, scalars(step), step.nimg)

    def on_snapshot(self, step: TrainStep) -> None:
        if self._events is None:
            return
        if self.required and step.grid is not None:
            grid = np.asarray(read_grid(step.grid))
            self._events.add_image("fakes", grid, global_step=step.nimg, dataformats="HWC")
        write_events(self._events, _metrics(step), step.nimg)

    def on_end(self, step: TrainStep | None) -> None:
        if self._events is not None:
            self._events.close()


def _metrics(step: TrainStep) -> dict[str, float]:
    return {f"Metrics/{name}": value for name, value in step.metrics.items()}


def open_events(folder: Path, start_nimg: int | None = None, required: bool = False) -> Any:
    """Return a TensorBoard `SummaryWriter` for `folder`.

    Args:
        folder: the run's folder.
        start_nimg: number of images of a resumed run; events that an earlier session wrote beyond
            it are hidden, as they will be written again.
        required: raise if TensorBoard is missing or broken, instead of returning None.
    """
    purge_step = None if start_nimg is None else start_nimg + 1
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=purge_step)
    except Exception:  # an extra that other releases of protobuf and numpy break in many ways
        if required:
            raise
        return None


def write_events(writer: Any, values: dict[str, float], nimg: int) -> None:
    """Write numbers to TensorBoard, at step `nimg`."""
    for name, value in values.items():
        writer.add_scalar(name, value, global_step=nimg)
    writer.flush()


class ModuleLogger(Callback):
    """Logs to `wandb` or `trackio`, whose functions have the same names.

    The project is called like the parent of the run's folder, the run like the folder. The step of
    all values is the number of images shown.

    Args:
        name: "wandb" or "trackio".
        module: the imported package.
    """

    def __init__(self, name: str, module: Any):
        self.name, self.module = name, module

    def on_start(self, run: RunInfo) -> None:
        folder = run.folder.resolve()
        project = os.environ.get(f"{self.name.upper()}_PROJECT") or folder.parent.name or "sg3"
        settings = {"project": project, "name": folder.name, "config": run.options}
        if self.name == "wandb":
            self._init_wandb(folder, settings)
        else:  # trackio finds the run by its name
            self.module.init(**settings, resume="allow")

    def _init_wandb(self, folder: Path, settings: dict[str, Any]) -> None:
        known = folder / WANDB_ID
        name = known.read_text(encoding="utf-8").strip() if known.is_file() else uuid.uuid4().hex
        self.module.init(**settings, id=name, resume="allow", dir=str(folder))
        known.write_text(name + "\n", encoding="utf-8")

    def on_tick(self, step: TrainStep) -> None:
        self.module.log(scalars(step), step=step.nimg)

    def on_snapshot(self, step: TrainStep) -> None:
        values: dict[str, Any] = dict(_metrics(step))
        if step.grid is not None:
            values["fakes"] = self.module.Image(read_grid(step.grid), caption=step.grid.name)
        self.module.log(values, step=step.nimg)

    def on_end(self, step: TrainStep | None) -> None:
        self.module.finish()
