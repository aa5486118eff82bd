"""`sg3 train`: train a network, with the options of the official trainer."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sg3.cli.main import with_option_names
from sg3.cli.options import resolve_device
from sg3.cli.processes import run_processes, world_size
from sg3.cli.stopping import StopRequest, stop_requests
from sg3.cli.train_options import train_options
from sg3.errors import UserError
from sg3.files import check_folder
from sg3.training.config import TrainConfig

#: Characters of the status line, so that a shorter one covers the one before.
STATUS_WIDTH = 70

if TYPE_CHECKING:
    from sg3.training.callbacks import TrainStep
    from sg3.training.loss import GANLoss


@click.command()
@train_options
def train(gpus: int | None, dry_run: bool, fp32: bool, **options: Any) -> None:
    """Train a network. Ctrl-C, SIGTERM and SIGHUP save the training state, then exit.

    They wait for the current step, and end a metric early. A second Ctrl-C exits without saving.

    \b
    Examples:
      sg3 train --cfg stylegan3-t --data faces.zip --gpus 8 --batch 32 --gamma 8.2 --outdir runs
      sg3 train --cfg stylegan3-t --data faces.zip --gpus 8 --batch 32 --gamma 8.2 --outdir runs \\
        --resume latest
      torchrun --nproc-per-node=2 -m sg3 train --cfg stylegan3-t --data faces.zip --batch 32 \\
        --outdir runs
    """
    if fp32:
        options["precision"] = "fp32"
    run_training(TrainConfig(**options), gpus, dry_run)


def run_training(
    config: TrainConfig,
    gpus: int | None = None,
    dry_run: bool = False,
    loss: type[GANLoss] | None = None,
) -> None:
    """Train and print progress; signals save the training state and end the program.

    Args:
        config: options of the run.
        gpus: number of processes; None: this one, or those of torchrun.
        dry_run: only print what would be done and what it would cost, as JSON.
        loss: a class with the interface of `GANLoss`; None: `GANLoss`.
    """
    from sg3.training.dry_run import describe
    from sg3.training.loop import train as steps_of
    from sg3.training.loss import GANLoss

    config = dataclasses.replace(config, device=str(resolve_device(config.device)))
    if dry_run:
        found = describe(config, gpus or world_size(), with_estimate=True)
        click.echo(json.dumps(found, indent=2))
        return
    _check_gpus(gpus, config.device)
    config.check_split(gpus or world_size())
    if gpus is not None and gpus != world_size():
        run_processes(gpus)
    check_folder(config.outdir)
    with stop_requests("finishing this step, then saving …\n", _StopRequest) as stop:
        try:
            _run(steps_of(config, stop, loss or GANLoss), stop)
        except (ValueError, RuntimeError, MemoryError) as error:
            _explain(error, os.environ.get("RANK", "0"))


def _check_gpus(gpus: int | None, device: str) -> None:
    """Raise UserError if there are fewer GPUs than processes."""
    import torch

    if device.startswith("cuda") and gpus is not None and gpus > torch.cuda.device_count():
        raise UserError(
            f"--gpus: got {gpus}, but this machine has {torch.cuda.device_count()}; omit it for a "
            "single process, or add --device cpu for several CPU processes"
        )


def _explain(error: Exception, rank: str) -> NoReturn:
    """Raise `error` as a message for the user; exit silently if rank 0 prints it."""
    from sg3.distributed import SharedError
    from sg3.training.trainer import is_out_of_memory

    if isinstance(error, SharedError) and rank != "0":
        sys.exit(2)
    if is_out_of_memory(error) and not isinstance(error, ValueError):
        error = UserError(
            "out of memory; try --batch-gpu auto, a smaller --batch, or smaller networks (--cbase)"
        )
    if rank == "0" or not isinstance(error, ValueError):
        raise error
    raise UserError(f"process {rank}: {error}") from None


class _StopRequest(StopRequest):
    """Also true once torchrun is gone, which no signal reports: its processes could not be
    stopped any more, and a second run would start next to them."""

    def __init__(self, message: str):
        super().__init__(message)
        self._launcher = os.getppid() if world_size() > 1 else None

    def __call__(self) -> bool:
        return self.asked or self._launcher not in (None, os.getppid())


def _run(steps: Iterator[TrainStep], stop: StopRequest) -> None:
    """Print all steps. If stdout is closed (`sg3 train … | head`), save the state and end.

    Raises SharedError if the run stopped because processes of another machine were asked to.
    """
    from sg3.distributed import SharedError

    started, first, stopped = time.time(), True, False
    for step in steps:
        stopped = step.stopped
        if not step.is_main:
            continue
        try:
            _print(step, first, started)
        except OSError:
            for stream in (sys.stdout, sys.stderr):  # or Python's final flush would fail too
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stop.asked = True
        first = False
    if stopped and not stop() and world_size() != int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        # Success here would end this machine's torchrun, and the other machine, when it is back,
        # would wait for it in vain.
        raise SharedError(
            "another machine stopped; the state is saved, and torchrun resumes if it has "
            "--max-restarts left and the command --resume latest"
        )


def _print(step: TrainStep, first: bool, started: float) -> None:
    """Print the lines of a step; on a terminal, a status line between ticks."""
    from sg3.training.forecast import format_duration

    if first:
        click.echo(f"{step.folder}: {step.start}")
    for note in step.notes:
        click.echo(with_option_names(note, train))
    if step.line is not None:
        click.echo(step.line)
    elif sys.stderr.isatty():
        speed = step.session_nimg / max(time.time() - started, 1e-6)
        text = f"{step.nimg / 1000:.1f} of {step.total_nimg / 1000:g} kimg, {speed:.1f} img/s"
        text += f", eta {format_duration(step.eta_sec)}"
        click.echo(f"\r{text:<{STATUS_WIDTH}}", nl=False, err=True)
    if step.snapshot is not None:
        click.echo(f"wrote {step.snapshot}")
    if step.stopped:
        click.echo(
            f"stopped at {step.nimg / 1000:.1f} kimg; state saved in {step.folder}. "
            "To continue, repeat the command with --resume latest"
        )
