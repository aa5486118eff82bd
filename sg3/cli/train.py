"""`sg3 train`: options of the official trainer, drained from `sg3.training.train`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

from sg3.cli.processes import run_processes, world_size
from sg3.cli.stopping import StopRequest, stop_requests
from sg3.cli.train_options import train_options
from sg3.errors import UserError

if TYPE_CHECKING:
    from sg3.training import Step, TrainConfig
    from sg3.training.loss import GANLoss


@click.command()
@train_options
def train(device: str, gpus: int | None, dry_run: bool, fp32: bool, **options) -> None:
    """Train a network. Interrupting (Ctrl-C, SIGTERM, SIGHUP) saves the state first.

    \b
    Examples:
      sg3 train --cfg stylegan3-t --data faces.zip --gpus 8 --batch 32 --gamma 8.2 --outdir runs
      sg3 train --cfg stylegan3-t --data faces.zip --gpus 8 --batch 32 --gamma 8.2 --outdir runs \\
        --resume latest
      torchrun --nproc-per-node=2 -m sg3 train --cfg stylegan3-t --data faces.zip --batch 32 \\
        --outdir runs
    """
    from sg3.training import TrainConfig

    if fp32:
        options["precision"] = "fp32"
    run_training(TrainConfig(device=device, **options), gpus, dry_run)


def run_training(
    config: TrainConfig,
    gpus: int | None = None,
    dry_run: bool = False,
    loss: type[GANLoss] | None = None,
) -> None:
    """Describe or train `config`, by `loss` if given, with what a terminal expects of it."""
    from sg3.cli.options import resolve_device
    from sg3.files import check_folder
    from sg3.training import describe
    from sg3.training import train as run
    from sg3.training.loss import GANLoss

    config = dataclasses.replace(config, device=str(resolve_device(config.device)))
    if dry_run:
        click.echo(json.dumps(describe(config, gpus or world_size()), indent=2))
        return
    _check_gpus(gpus, config.device)
    if gpus not in (None, world_size()):
        run_processes(gpus)
    check_folder(config.outdir)
    with stop_requests("finishing this step, then saving …\n", _StopRequest) as stop:
        try:
            _drain(run(config, stop, loss or GANLoss), stop)
        except (ValueError, RuntimeError, MemoryError) as error:
            _explain(error, os.environ.get("RANK", "0"))


def _check_gpus(gpus: int | None, device: str) -> None:
    """One process per GPU. Raises UserError if there are not that many."""
    import torch

    if device.startswith("cuda") and gpus is not None and gpus > torch.cuda.device_count():
        raise UserError(
            f"--gpus: got {gpus}, but this machine has {torch.cuda.device_count()}; for one "
            "process leave it out, for several on the CPU add --device cpu"
        )


def _explain(error: Exception, rank: str) -> NoReturn:
    """Raise `error` as a line for the user, or end quietly where rank 0 says it."""
    from sg3.distributed.team import ToldError
    from sg3.training.trainer import is_out_of_memory

    if isinstance(error, ToldError) and rank != "0":
        sys.exit(2)
    if is_out_of_memory(error) and not isinstance(error, ValueError):
        error = UserError(
            "out of memory; try --batch-gpu auto, a smaller --batch or smaller networks (--cbase)"
        )
    if rank == "0" or not isinstance(error, ValueError):
        raise error
    raise UserError(f"process {rank}: {error}") from None


class _StopRequest(StopRequest):
    """Also true when torchrun itself is gone, which no signal tells: nobody could stop these
    processes any more, and a second run would start beside them."""

    def __init__(self, message: str):
        super().__init__(message)
        self._launcher = os.getppid() if world_size() > 1 else None

    def __call__(self) -> bool:
        return self.asked or self._launcher not in (None, os.getppid())


def _drain(steps: Iterator[Step], stop: _StopRequest) -> None:
    """Print what `train` yields. When nobody reads it any more, save the state and end."""
    started, first = time.time(), True
    for step in steps:
        if not step.leads:
            continue
        try:
            _print(step, first, started)
        except OSError:
            for stream in (sys.stdout, sys.stderr):  # or Python's last flush would fail too
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stop.asked = True
        first = False


def _print(step: Step, first: bool, started: float) -> None:
    """The lines of a step; on a terminal a running one between ticks."""
    if first:
        click.echo(f"{step.folder}: {step.start}")
    for note in step.notes:
        click.echo(note)
    if step.line is not None:
        click.echo(step.line)
    elif sys.stderr.isatty():
        speed = step.session_nimg / max(time.time() - started, 1e-6)
        text = f"\r{step.nimg / 1000:.1f} of {step.total_nimg / 1000:g} kimg, {speed:.1f} img/s "
        click.echo(text, nl=False, err=True)
    if step.snapshot is not None:
        click.echo(f"wrote {step.snapshot}")
    if step.stopped:
        click.echo(
            f"stopped at {step.nimg / 1000:.1f} kimg; state saved in {step.folder}. "
            "To go on, repeat the command with --resume latest"
        )
