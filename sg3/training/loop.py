"""The training loop: an iterator that trains, writes the run's files, and yields every step."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sg3.checkpoints.load import load
from sg3.checkpoints.networks import Networks
from sg3.data import ImageDataset, ShardDataset
from sg3.distributed import Team, restarted_by_torchrun
from sg3.errors import UserError
from sg3.metrics import check_names
from sg3.progress import with_bar
from sg3.training import run_folder
from sg3.training.callbacks import Callback, RunInfo, TrainStep
from sg3.training.config import TrainConfig
from sg3.training.dry_run import open_training_data, plain
from sg3.training.forecast import Clock, Pace, Remaining, disk_use, forecast_line, remaining
from sg3.training.loggers import check_loggers, make_loggers
from sg3.training.loss import GANLoss
from sg3.training.progress_page import write_progress_page
from sg3.training.run_writer import RunWriter, Tick
from sg3.training.start_notes import data_notes, describe_start, start_notes
from sg3.training.state import capture, newest_state, restore_or_explain, write_state, writing
from sg3.training.trainer import Trainer, prepare_device

#: Options about place, length and speed, which may change when a run is resumed.
MAY_CHANGE = (
    "outdir", "data", "kimg", "tick", "snap", "resume", "device", "threads", "cache", "workers",
    "batch_gpu", "keep_states", "state_minutes", "metrics", "metric_every", "compile", "nobench",
    "desc", "log",
)  # fmt: skip
MAX_SKIPPED_LINES = 20


def train(
    config: TrainConfig,
    stop: Callable[[], bool] | None = None,
    loss: type[GANLoss] = GANLoss,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Iterator[TrainStep]:
    """Train with the options of `config`, yielding a `TrainStep` after every batch.

    Under torchrun, every process makes the same call.

    Args:
        config: options of the run.
        stop: called after every batch, and during metrics after every batch of theirs; if it
            returns True on any rank, the state is saved and the last step has `stopped`.
        loss: a class with the interface of `GANLoss`. A run can only be resumed with the loss
            that it was started with, by name.
        progress: show a progress bar.
        callbacks: called in addition to the loggers of `config.log`.

    Raises ValueError for options or data that do not fit, before anything is written.
    """
    run = Run(config, loss, callbacks)
    try:
        show = progress and run.team.is_main
        yield from with_bar(_steps(run, stop), run.steps_left, "train", show)
    finally:
        run.close()


def _steps(run: Run, stop: Callable[[], bool] | None) -> Iterator[TrainStep]:
    """The loop over batches."""
    config, trainer, team, writer = run.config, run.trainer, run.team, run.writer
    if run.done:
        run.note(f"nothing to do: {trainer.cur_nimg / 1000:g} of {config.kimg:g} kimg")
        yield run.report(done=True)
        return
    while not run.done:
        run.step()
        # Asked together: one process may be told to stop before the others are.
        if team.any(stop is not None and stop()):
            run.save_state()
            yield run.report(stopped=True)
            return
        # The first tick ends after one batch, so that a new run shows its first files at once.
        tick_end = trainer.tick_start_nimg + config.tick * 1000
        if not (trainer.tick == 0 or run.done or trainer.cur_nimg >= tick_end):
            yield run.report()
            continue
        snapshot_due = run.done or trainer.tick % config.snap == 0
        metrics_due = run.done or trainer.tick % (config.snap * config.metric_every) == 0
        started = time.perf_counter()
        tick = writer.end_tick(snapshot_due, metrics_due, stop)
        run.notes += [*tick.metrics, *(f"advice: {text}" for text in tick.advice)]
        for line in run.new_skipped_images():
            run.note(line)
        trainer.tick += 1
        trainer.tick_start_nimg = trainer.cur_nimg
        stopped = team.any(stop is not None and stop()) and not run.done
        # Saved after the counters advanced: a resumed run begins with a new tick. Rank 0 decides,
        # as clocks differ.
        if team.broadcast_object(snapshot_due or stopped or writer.state_is_old()):
            run.save_state()
        run.write_page()
        run.pace.add_maintenance(time.perf_counter() - started, snapshot_due)
        yield run.report_tick(tick, stopped)
        if stopped:
            return


class Run:
    """A trainer and its folder, new or resumed."""

    def __init__(
        self,
        config: TrainConfig,
        loss: type[GANLoss] = GANLoss,
        callbacks: Sequence[Callback] = (),
    ):
        self.clock, self.pace = Clock(), Pace()
        self.loss, self.callbacks = loss, list(callbacks)
        self._last: TrainStep | None = None
        self.team = Team.join(prepare_device(config))
        self._claim: IO[str] | None = None
        try:
            self._open(config)
        except BaseException:
            self._leave()
            raise
        self._first_nimg = self.trainer.cur_nimg

    def _open(self, config: TrainConfig) -> None:
        dataset, config = self.team.agree(lambda: self._prepare(config))
        self.config, self.dataset = config, dataset
        description = run_folder.run_description(config, dataset.name, self.team.size)
        # Rank 0 decides, so that all processes open the same run.
        folder = self.team.broadcast_object(self._folder_to_resume(description))
        state, notes, start = self.team.agree(lambda: self._read_start(folder))
        kwargs = None if state is None else state["kwargs"]
        self.notes: list[str] = []
        self._num_skipped = 0
        self.trainer = Trainer(self.config, dataset, self.team, start, kwargs, self.note, self.loss)
        # Only now: options or data that do not fit leave no folder behind.
        self.folder = folder or self._new_folder(description)
        try:
            self.writer = RunWriter(self.folder, self.config, self.trainer, self.clock, self.pace)
            self._write_start(state, notes)
            self._start_callbacks(resumed=state is not None)
        except BaseException:
            if folder is None and self.team.is_main:  # new, and of no use
                shutil.rmtree(self.folder, ignore_errors=True)
            self.trainer.close()
            raise

    def _prepare(self, config: TrainConfig) -> tuple[ImageDataset | ShardDataset, TrainConfig]:
        """Open the data and derive the options that depend on it."""
        check_names(config.metrics)
        if self.team.is_main:
            check_loggers(config.log)
        dataset = open_training_data(config)
        return dataset, config.resolved(max(dataset.image_shape[1:]), self.team.size)

    def _folder_to_resume(self, description: str) -> Path | None:
        """Return the folder of the run that this session resumes, or None for a new run."""
        config = self.config
        if run_folder.is_run_folder(config.outdir):
            return Path(config.outdir)
        if config.wants_latest or restarted_by_torchrun():
            return run_folder.latest_run_folder(config.outdir, description)
        return None

    def _read_start(
        self, folder: Path | None
    ) -> tuple[dict[str, Any] | None, list[str], Networks | None]:
        """Return the state to resume from with notes about it, or the network to start from."""
        if folder is not None:
            if self.team.is_main:
                self._claim = run_folder.claim(folder)
            state, notes = newest_state(folder)
            self._check_loss(state.get("loss", GANLoss.__name__), folder)
            self.config = self._resumed_config(state["config"], folder)
            return state, notes, None
        if self.config.start_network is None:
            return None, [], None
        start = load(self.config.start_network)
        self.config = self.config.begun_with_network()
        return None, [], start

    def _check_loss(self, saved: str, folder: Path) -> None:
        own = self.loss.__name__
        if saved != own:
            raise UserError(
                f"resume: the run in {folder} trains with {saved}, this program with {own}; "
                "resume it with the program that started it"
            )

    def _resumed_config(self, saved: dict[str, Any], folder: Path) -> TrainConfig:
        """Return the options for a resumed run. Raises ValueError if they describe another run."""
        config = self.config
        # The stored options were changed like this at the start: compare like with like.
        if saved["from_network"]:
            config = config.begun_with_network()
        # An option that is newer than the run had its default.
        fields = dataclasses.fields(config)
        newer: dict[str, Any] = {f.name: f.default for f in fields if f.name not in saved}
        resolution = max(self.dataset.image_shape[1:])
        defaults = dataclasses.replace(config, **newer).resolved(resolution, self.team.size)
        saved = {**plain(defaults), **saved}
        for name, value in plain(config).items():
            if name not in MAY_CHANGE and saved[name] != value:
                raise UserError(
                    f"{name}: got {value}, but the run in {folder} was started with "
                    f"{saved[name]}; use the same options, or start a new run without `resume`"
                )
        return config

    def _new_folder(self, description: str) -> Path:
        """Create and lock the folder of a new run on rank 0."""

        def make() -> Path | None:
            if not self.team.is_main:
                return None
            made = run_folder.new_run_folder(self.config.outdir, description)
            self._claim = run_folder.claim(made)
            return made

        made = self.team.broadcast_object(self.team.agree(make))
        assert made is not None, "rank 0 has made it"
        return made

    def _write_start(self, state: dict[str, Any] | None, notes: list[str]) -> None:
        """Write the first files of a new run, or restore `state` and its files."""
        if state is not None:
            notes = notes + restore_or_explain(self.trainer, state, self.folder)
        self.start = describe_start(self.config, self.trainer, resumed=state is not None)
        notes = [*data_notes(self.dataset), *notes, *start_notes(self.config, self.trainer)]

        def write() -> None:
            with writing(self.folder):
                if state is None:
                    self.writer.write_start()
                else:
                    self.writer.load_state(state["output"])
            self.writer.log(self.start)
            for line in [*notes, *self.new_skipped_images()]:
                self.note(line)

        self.team.agree(write)

    def _start_callbacks(self, resumed: bool) -> None:
        """Tell the callbacks, on rank 0, that the session begins."""

        def start() -> None:
            if not self.team.is_main:
                self.callbacks = []
                return
            self.callbacks += make_loggers(self.config.log, self.note)
            config, nimg = self.config, self.trainer.cur_nimg
            run = RunInfo(
                folder=self.folder,
                options=self.writer.options(),
                nimg=nimg,
                total_nimg=round(config.kimg * 1000),
                resumed=resumed,
                start=self.start,
            )
            for callback in self.callbacks:
                callback.on_start(run)

        self.team.agree(start)

    def note(self, line: str) -> None:
        """Add a line to the log and to the next step's notes."""
        self.writer.log(line)
        self.notes.append(line)

    def new_skipped_images(self) -> list[str]:
        """Return lines about images found unreadable since the last call."""
        dataset, before = self.trainer.dataset, self._num_skipped
        self._num_skipped = dataset.num_skipped
        if dataset.num_skipped == before:
            return []
        lines = [f"{dataset.num_skipped} images that cannot be used are skipped"]
        return lines + [f"  {x}" for x in dataset.skipped[before : before + MAX_SKIPPED_LINES]]

    @property
    def done(self) -> bool:
        """Whether the run has reached its length."""
        return self.trainer.cur_nimg >= self.config.kimg * 1000

    @property
    def steps_left(self) -> int:
        """Batches until `done`."""
        nimg = self.config.kimg * 1000 - self.trainer.cur_nimg
        return max(math.ceil(nimg / self.config.batch), 0)

    def step(self) -> None:
        """Train on one batch, and make the forecast when enough steps have been timed."""
        trainer, pace = self.trainer, self.pace
        before = trainer.seconds
        trainer.step()
        pace.add_step(trainer.seconds - before)
        if not pace.forecast_due([phase.interval for phase in trainer.phases]):
            return
        left, step_sec = self._remaining(), pace.step_sec
        eta_sec = pace.eta_sec(left)
        if self.team.is_main and not self.done and step_sec is not None and eta_sec is not None:
            with suppress(OSError):  # odd file systems end no run
                disk = disk_use(self.folder, left.snapshots, self.config.keep_states)
                self.note(forecast_line(self.config, step_sec, eta_sec, disk, self.folder))

    def _remaining(self) -> Remaining:
        t = self.trainer
        return remaining(self.config, t.cur_nimg, t.tick, t.tick_start_nimg)

    def save_state(self) -> None:
        """Write the training state atomically. Every process must call it."""
        state = capture(
            self.trainer,
            config=plain(self.config),
            output=self.writer.state(),
            loss=self.loss.__name__,
        )
        self.team.agree(lambda: state and write_state(self.folder, state, self.config.keep_states))
        self.writer.state_was_written()

    def write_page(self) -> None:
        """Rewrite the progress page from the files; its failure does not end a run."""
        if self.team.is_main:
            try:
                write_progress_page(self.folder)
            except OSError as error:
                self.writer.log(f"cannot write the progress page: {error}")

    def report(self, **results: Any) -> TrainStep:
        """Return the step to yield now."""
        notes, self.notes = tuple(self.notes), []
        eta_sec = 0.0 if self.done else self.pace.eta_sec(self._remaining())
        self._last = TrainStep(
            nimg=self.trainer.cur_nimg,
            total_nimg=round(self.config.kimg * 1000),
            session_nimg=self.trainer.cur_nimg - self._first_nimg,
            folder=self.folder,
            start=self.start,
            is_main=self.team.is_main,
            eta_sec=eta_sec,
            notes=notes,
            **results,
        )
        return self._last

    def report_tick(self, tick: Tick, stopped: bool) -> TrainStep:
        """Return the step at the end of a tick, after the callbacks have seen it."""
        step = self.report(
            line=tick.line,
            progress=tick.progress,
            stats=tick.stats,
            snapshot=tick.snapshot,
            grid=tick.grid,
            metrics=tick.results,
            done=self.done,
            stopped=stopped,
        )
        for callback in self.callbacks:
            callback.on_tick(step)
            if step.snapshot is not None:
                callback.on_snapshot(step)
        return step

    def close(self) -> None:
        """Tell the callbacks, stop the data loader, and leave the team."""
        try:
            for callback in self.callbacks:
                callback.on_end(self._last)
        finally:
            self.trainer.close()
            self._leave()

    def _leave(self) -> None:
        if self._claim is not None:
            self._claim.close()
        self.team.close()
