"""The training loop: an iterator that trains, writes the run's files, and yields every step."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sg3.checkpoints.load import load
from sg3.checkpoints.networks import Networks
from sg3.data import ImageDataset, ShardDataset, open_dataset
from sg3.data.transforms import check_size
from sg3.distributed import Team, restarted_by_torchrun
from sg3.errors import UserError
from sg3.metrics import check_names
from sg3.networks import build_network
from sg3.progress import with_bar
from sg3.training import run_folder
from sg3.training.augmentation import image_augmentation
from sg3.training.config import TrainConfig, discriminator_kwargs, generator_kwargs
from sg3.training.freezing import trained_parameters
from sg3.training.loss import GANLoss, loss_config
from sg3.training.progress_page import write_progress_page
from sg3.training.run_writer import RunWriter
from sg3.training.state import capture, newest_state, restore, write_state, writing
from sg3.training.trainer import Trainer, prepare_device

#: Options about place, length and speed, which may change when a run is resumed.
MAY_CHANGE = (
    "outdir", "data", "kimg", "tick", "snap", "resume", "device", "threads", "cache", "workers",
    "batch_gpu", "keep_states", "state_minutes", "metrics", "compile", "nobench", "desc",
)  # fmt: skip
MAX_SKIPPED_LINES = 20


@dataclass(frozen=True)
class TrainStep:
    """What `train` yields after every batch.

    Attributes:
        nimg: images shown so far.
        total_nimg: images at the end of the run.
        session_nimg: images shown since this call of `train`.
        folder: the run's folder.
        start: how this session started, one sentence.
        is_main: False on all ranks but 0, which writes the files.
        line: progress at the end of a tick, otherwise None.
        stats: statistics at the end of a tick, otherwise None.
        notes: lines for the log since the last step. Names of options are in backticks.
        snapshot: network file, if one was written.
        done: whether the run has reached its length.
        stopped: whether the run was stopped by `stop`, after saving its state.
    """

    nimg: int
    total_nimg: int
    session_nimg: int
    folder: Path
    start: str
    is_main: bool = True
    line: str | None = None
    stats: dict[str, dict[str, float]] | None = None
    notes: tuple[str, ...] = ()
    snapshot: Path | None = None
    done: bool = False
    stopped: bool = False


def train(
    config: TrainConfig,
    stop: Callable[[], bool] | None = None,
    loss: type[GANLoss] = GANLoss,
    progress: bool = False,
) -> Iterator[TrainStep]:
    """Train with the options of `config`, yielding a `TrainStep` after every batch.

    Under torchrun, every process makes the same call.

    Args:
        config: options of the run.
        stop: called after every batch; if it returns True on any rank, the state is saved and the
            last step has `stopped`.
        loss: a class with the interface of `GANLoss`. A run can only be resumed with the loss
            that it was started with, by name.
        progress: show a progress bar.

    Raises ValueError for options or data that do not fit, before anything is written.
    """
    run = Run(config, loss)
    try:
        show = progress and run.team.is_main
        yield from with_bar(_steps(run, stop), run.steps_left, "train", show)
    finally:
        run.close()


def _steps(run: Run, stop: Callable[[], bool] | None) -> Iterator[TrainStep]:
    """The loop over batches."""
    config, trainer, team, writer = run.config, run.trainer, run.team, run.writer
    while not run.done:
        trainer.step()
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
        tick = writer.end_tick(snapshot_due)
        run.notes += [*tick.metrics, *(f"advice: {text}" for text in tick.advice)]
        for line in run.new_skipped_images():
            run.note(line)
        trainer.tick += 1
        trainer.tick_start_nimg = trainer.cur_nimg
        # Saved after the counters advanced: a resumed run begins with a new tick. Rank 0 decides,
        # as clocks differ.
        if team.broadcast_object(snapshot_due or writer.state_is_old()):
            run.save_state()
        run.write_page()
        yield run.report(line=tick.line, stats=tick.stats, snapshot=tick.snapshot, done=run.done)


def describe(config: TrainConfig, num_processes: int = 1) -> dict[str, Any]:
    """Return what a run would do: resolved options, folder name, data, network arguments, loss.

    Nothing is written. Raises ValueError for options or data that do not fit.
    """
    check_names(config.metrics)
    dataset = open_training_data(config)
    shape = dataset.image_shape
    config = config.resolved(max(shape[1:]), num_processes)
    start = Networks()
    if config.start_network is not None:
        start, config = load(config.start_network), config.begun_with_network()
    kind, kwargs = generator_kwargs(config, shape, dataset.label_dim, start.G or start.G_ema)
    if config.freeze_g:
        trained_parameters(build_network(kind, kwargs), config)  # raises for too many layers
    augment = image_augmentation(config)
    return {
        "options": plain(config),
        "folder": run_folder.run_description(config, dataset.name, num_processes),
        "data": {"images": len(dataset), "shape": shape, "label_dim": dataset.label_dim},
        "G": {"kind": kind, **kwargs},
        "D": discriminator_kwargs(config, shape, dataset.label_dim, start.D),
        "augment": None if augment is None else {"kind": augment[0], **augment[1]},
        "loss": dataclasses.asdict(loss_config(config)),
    }


def open_training_data(config: TrainConfig) -> ImageDataset | ShardDataset:
    """Open the real images of `config`. Raises ValueError if no network has their size."""
    dataset = open_dataset(
        config.data,
        use_labels=config.cond,
        max_size=config.max_images,
        xflip=config.mirror,
        yflip=config.mirror_y,
        random_seed=config.seed,
        cache=config.cache,
    )
    _, height, width = dataset.image_shape
    try:
        check_size(height, width)
    except ValueError:
        raise UserError(
            f"data: images in {config.data} are {width}x{height}, which no network supports; "
            "prepare them with: sg3 dataset --resolution WxH --transform center-crop"
        ) from None
    return dataset


def plain(config: TrainConfig) -> dict[str, Any]:
    """Return the options as files store them, with lists for tuples."""
    record = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}


class Run:
    """A trainer and its folder, new or resumed."""

    def __init__(self, config: TrainConfig, loss: type[GANLoss] = GANLoss):
        self.loss = loss
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
        self.config = config
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
            self.writer = RunWriter(self.folder, self.config, self.trainer)
            self._write_start(state, notes)
        except BaseException:
            if folder is None and self.team.is_main:  # new, and of no use
                shutil.rmtree(self.folder, ignore_errors=True)
            self.trainer.close()
            raise

    def _prepare(self, config: TrainConfig) -> tuple[ImageDataset | ShardDataset, TrainConfig]:
        """Open the data and derive the options that depend on it."""
        check_names(config.metrics)
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
        # An option that is younger than the run had its default.
        saved = {**plain(TrainConfig(outdir="", data="")), **saved}
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
            notes = notes + restore(self.trainer, state)
        self.start = self._describe_start(resumed=state is not None)

        def write() -> None:
            with writing(self.folder):
                if state is None:
                    self.writer.write_start()
                else:
                    self.writer.load_state(state["output"])
            self.writer.log(self.start)
            misfits = [line for r in self.trainer.transfer_reports for line in r.lines()]
            for line in [*notes, *misfits, *self.new_skipped_images()]:
                self.note(line)

        self.team.agree(write)

    def _describe_start(self, resumed: bool) -> str:
        config, trainer = self.config, self.trainer
        text = f"{trainer.dataset.describe()}, gamma {config.gamma:g}"
        if resumed:
            return f"resuming at {trainer.cur_nimg / 1000:.1f} kimg with {text}"
        where = config.start_network or "scratch"
        fits = ", ".join(report.summary() for report in trainer.transfer_reports)
        return f"starting from {where} with {text}" + (f"; {fits}" if fits else "")

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
        lines = [f"{dataset.num_skipped} unreadable images are skipped"]
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
        return TrainStep(
            nimg=self.trainer.cur_nimg,
            total_nimg=round(self.config.kimg * 1000),
            session_nimg=self.trainer.cur_nimg - self._first_nimg,
            folder=self.folder,
            start=self.start,
            is_main=self.team.is_main,
            notes=notes,
            **results,
        )

    def close(self) -> None:
        """Stop the data loader, close the files, and leave the team."""
        self.trainer.close()
        self.writer.close()
        self._leave()

    def _leave(self) -> None:
        if self._claim is not None:
            self._claim.close()
        self.team.close()
