"""The training loop as an iterator: it works, writes the run's files, and yields every step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sg3.distributed.team import Team, restarted_by_torchrun
from sg3.metrics import check_names
from sg3.training import run_folder
from sg3.training.config import TrainConfig
from sg3.training.describe import make_dataset, plain
from sg3.training.loss import GANLoss
from sg3.training.output import RunOutput
from sg3.training.state import capture, newest_state, restore, write_state, writing
from sg3.training.trainer import Trainer

#: Options that only say where, how long and how fast; a run may go on with others.
FREE = (
    "outdir", "data", "kimg", "tick", "snap", "resume", "device", "threads", "cache", "workers",
    "batch_gpu", "keep_states", "state_minutes", "metrics", "compile", "nobench", "desc",
)  # fmt: skip


DAMAGE_LINES = 20


@dataclass(frozen=True)
class Step:
    """What `train` yields: after every batch, with `line` and `stats` when a tick ended."""

    nimg: int
    total_nimg: int
    session_nimg: int  # shown since this call of `train`
    folder: Path
    start: str  # how this session began, one sentence
    leads: bool = True  # False in all processes but the one that writes the files
    line: str | None = None
    stats: dict | None = None
    notes: tuple[str, ...] = ()  # lines for the log since the last step
    snapshot: Path | None = None
    done: bool = False
    stopped: bool = False


def prepare_device(config: TrainConfig) -> torch.device:
    """The device of `config`, with the program's settings for it made."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.backends.cudnn.benchmark = not config.nobench
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device


class Run:
    """A trainer with its folder: opening or continuing, ticks, snapshots, states."""

    def __init__(self, config: TrainConfig, loss: type[GANLoss] = GANLoss):
        self.loss = loss
        self.team, self._claim = Team.join(prepare_device(config)), None
        try:
            self._open(config)
        except BaseException:
            self._release()
            self.team.leave()
            raise
        self._first_nimg = self.trainer.cur_nimg

    def _open(self, config: TrainConfig) -> None:
        dataset, config = self.team.agree(lambda: self._prepare(config))
        self.config = config
        description = run_folder.run_description(config, dataset.name, self.team.size)
        folder = self.team.tell(self._folder_to_continue(description))
        state, notes, start = self.team.agree(lambda: self._read_start(folder))
        kwargs = None if state is None else state["kwargs"]
        self.notes: list[str] = []
        self._damage_told = 0
        self.trainer = Trainer(self.config, dataset, self.team, start, kwargs, self.note, self.loss)
        self.folder = folder or self._new_folder(description)
        try:
            self.output = RunOutput(self.folder, self.config, self.trainer)
            self._open_output(state, notes)
        except BaseException:
            if folder is None and self.team.leads:  # it holds nothing yet
                shutil.rmtree(self.folder, ignore_errors=True)
            self.trainer.close()
            raise

    def _prepare(self, config: TrainConfig) -> tuple:
        """The data, and the options that follow from them."""
        check_names(config.metrics)
        dataset = make_dataset(config)
        return dataset, config.resolved(max(dataset.image_shape[1:]), self.team.size)

    def _read_start(self, folder: Path | None) -> tuple:
        """The state to go on from, lines about it, and the network to start from."""
        if folder is not None:
            if self.team.leads:
                self._claim = run_folder.claim(folder)
            state, notes = newest_state(folder)
            self._check_loss(state.get("loss", GANLoss.__name__), folder)
            self.config = self._continued(self.config, state["config"], folder)
            return state, notes, None
        if self.config.start_network is None:
            return None, [], None
        import sg3  # here, because sg3 itself is what this module belongs to

        start = sg3.load(self.config.start_network)
        self.config = self.config.begun_with_network()
        return None, [], start

    def _check_loss(self, saved: str, folder: Path) -> None:
        """A run goes on with the loss that it began with."""
        own = self.loss.__name__
        if saved != own:
            raise ValueError(
                f"--resume: the run in {folder} learns by {saved}, this program by {own}; "
                "go on with the command that began it"
            )

    def _new_folder(self, description: str) -> Path:
        """A folder of its own for this run, made by rank 0."""

        def make() -> Path | None:
            if not self.team.leads:
                return None
            made = run_folder.new_run_folder(self.config.outdir, description)
            self._claim = run_folder.claim(made)
            return made

        return self.team.tell(self.team.agree(make))

    def _open_output(self, state: dict | None, notes: list[str]) -> None:
        """The first files of a new run; or the state and files of one that goes on."""
        if state is not None:
            notes = notes + restore(self.trainer, state)
        self.start = self._describe_start(state is not None)

        def write() -> None:
            with writing(self.folder):
                if state is None:
                    self.output.write_start()
                else:
                    self.output.load_state(state["output"])
            self.output.log(self.start)
            for line in notes + self._remarks():
                self.note(line)

        self.team.agree(write)

    def note(self, line: str) -> None:
        """A line for the log and the terminal."""
        self.output.log(line)
        self.notes.append(line)

    def _folder_to_continue(self, description: str) -> Path | None:
        """The run's folder if this session goes on with one, else None."""
        config = self.config
        if run_folder.is_run_folder(config.outdir):
            return Path(config.outdir)
        if config.wants_latest or restarted_by_torchrun():
            return run_folder.latest_run_folder(config.outdir, description)
        return None

    def _continued(self, config: TrainConfig, saved: dict, folder: Path) -> TrainConfig:
        """`config` as the saved run knows it; refuses options that would make it another run."""
        if saved["from_network"]:
            config = config.begun_with_network()
        own = plain(config)
        for name, value in own.items():
            if name not in FREE and saved.get(name) != value:
                raise ValueError(
                    f"--{name.replace('_', '-')}: got {value}, but the run in {folder} was "
                    f"started with {saved.get(name)}; repeat its command, or leave out --resume"
                )
        return config

    def _describe_start(self, resumed: bool) -> str:
        config, trainer = self.config, self.trainer
        text = f"{trainer.dataset.describe()}, gamma {config.gamma:g}"
        if resumed:
            return f"going on at {trainer.cur_nimg / 1000:.1f} kimg with {text}"
        where = config.start_network or "scratch"
        fits = ", ".join(report.summary() for report in trainer.transfer_reports)
        return f"starting from {where} with {text}" + (f"; {fits}" if fits else "")

    def _remarks(self) -> list[str]:
        """What was left out of the data, and what did not fit of a network."""
        lines = [line for report in self.trainer.transfer_reports for line in report.lines()]
        return lines + self._new_damage()

    def _new_damage(self) -> list[str]:
        """Images found unreadable since the last look."""
        dataset, told = self.trainer.dataset, self._damage_told
        self._damage_told = dataset.num_skipped
        if dataset.num_skipped == told:
            return []
        lines = [f"{dataset.num_skipped} unreadable images are left out"]
        return lines + [f"  {line}" for line in dataset.skipped[told : told + DAMAGE_LINES]]

    @property
    def done(self) -> bool:
        return self.trainer.cur_nimg >= self.config.kimg * 1000

    def tick_is_due(self) -> bool:
        """After the first batch, then every `tick` kimg."""
        t = self.trainer
        started = t.tick_start_nimg
        return t.tick == 0 or self.done or t.cur_nimg >= started + self.config.tick * 1000

    def end_tick(self) -> Step:
        """Statistics, and pictures, networks and state when they are due."""
        t = self.trainer
        snapshot_due = self.done or t.tick % self.config.snap == 0
        result = self.output.end_tick(snapshot_due)
        self.notes += [*result.metrics, *(f"advice: {text}" for text in result.advice)]
        for line in self._new_damage():
            self.note(line)
        t.tick += 1
        t.tick_start_nimg = t.cur_nimg
        # After the counters: the next session starts a new tick.
        if self.team.tell(snapshot_due or self.output.state_is_old()):
            self.save_state()
        self.output.finish_tick()
        return self.report(
            line=result.line, stats=result.stats, snapshot=result.snapshot, done=self.done
        )

    def save_state(self) -> None:
        """Write the training state atomically. Every process must call it."""
        state = capture(
            self.trainer,
            config=plain(self.config),
            output=self.output.state(),
            loss=self.loss.__name__,
        )
        self.team.agree(lambda: state and write_state(self.folder, state, self.config.keep_states))
        self.output.state_was_written()

    def report(self, **what) -> Step:
        """The `Step` to yield now."""
        notes, self.notes = tuple(self.notes), []
        return Step(
            nimg=self.trainer.cur_nimg,
            total_nimg=round(self.config.kimg * 1000),
            session_nimg=self.trainer.cur_nimg - self._first_nimg,
            folder=self.folder,
            start=self.start,
            leads=self.team.leads,
            notes=notes,
            **what,
        )

    def close(self) -> None:
        """End the reading and leave the team."""
        self.trainer.close()
        self.output.close()
        self._release()
        self.team.leave()

    def _release(self) -> None:
        """Let another process go on with this run."""
        if self._claim is not None:
            self._claim.close()


def train(
    config: TrainConfig,
    stop: Callable[[], bool] | None = None,
    loss: type[GANLoss] = GANLoss,
) -> Iterator[Step]:
    """Train as `config` says, yielding a `Step` after every batch.

    In a program that torchrun started, every process calls this alike. `stop` is asked after
    every batch; when it answers true in any process the state is written and the last step has
    `stopped`. `loss` may be a class of one's own, called as `GANLoss` is; a run remembers its name
    and goes on with no other. Raises ValueError for options or data that do not fit, before
    anything is written.
    """
    run = Run(config, loss)
    try:
        while not run.done:
            run.trainer.step()
            if run.team.any(stop is not None and stop()):
                run.save_state()
                yield run.report(stopped=True)
                return
            yield run.end_tick() if run.tick_is_due() else run.report()
    finally:
        run.close()
