"""The training loop as an iterator: it works, writes the run's files, and yields every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sg3 import allocator
from sg3.data import open_dataset
from sg3.metrics import check_names
from sg3.training import run_folder
from sg3.training.config import TrainConfig
from sg3.training.output import RunOutput
from sg3.training.presets import discriminator_kwargs, generator_kwargs, loss_config
from sg3.training.state import capture, newest_state, restore, write_state
from sg3.training.team import Team, restarted_by_torchrun
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


def make_dataset(config: TrainConfig):
    """The real images that `config` names."""
    return open_dataset(
        config.data,
        use_labels=config.cond,
        max_size=config.max_images,
        xflip=config.mirror,
        yflip=config.mirror_y,
        random_seed=config.seed,
        cache=config.cache,
    )


def describe(config: TrainConfig, num_processes: int = 1) -> dict:
    """What a run would do, without doing it: the resolved options, and the networks' arguments.

    Raises ValueError for options or data that do not fit.
    """
    dataset = make_dataset(config)
    shape = tuple(dataset.image_shape)
    config = config.resolved(max(shape[1:]), num_processes)
    start = None
    if config.start_network is not None:
        import sg3

        start, config = sg3.load(config.start_network), config.begun_with_network()
    kind, kwargs = generator_kwargs(config, shape, dataset.label_dim, start and start.G_ema)
    return {
        "options": _plain(config),
        "folder": run_folder.run_description(config, dataset.name, num_processes),
        "data": {"images": len(dataset), "shape": shape, "label_dim": dataset.label_dim},
        "G": {"kind": kind, **kwargs},
        "D": discriminator_kwargs(config, shape, dataset.label_dim, start and start.D),
        "loss": dataclasses.asdict(loss_config(config)),
    }


def prepare_device(config: TrainConfig) -> torch.device:
    """The device of `config`, with the program's settings for it made."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        allocator.keep_large_blocks()
    torch.backends.cudnn.benchmark = not config.nobench
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device


class Run:
    """A trainer with its folder: opening or continuing, ticks, snapshots, states."""

    def __init__(self, config: TrainConfig):
        check_names(config.metrics)
        self.team = Team.join(prepare_device(config))
        dataset = make_dataset(config)
        size = max(dataset.image_shape[1:])
        self.config = config = config.resolved(size, self.team.size)
        description = run_folder.run_description(config, dataset.name, self.team.size)
        folder = self.team.tell(self._folder_to_continue(description))
        state, notes = newest_state(folder) if folder is not None else (None, [])
        start = None
        if state is not None:
            config = self._continued(config, state["config"], folder)
        elif config.start_network is not None:
            import sg3  # here, because sg3 itself is what this module belongs to

            start = sg3.load(config.start_network)
            config = config.begun_with_network()
        self.config = config
        kwargs = None if state is None else state["kwargs"]
        self.notes: list[str] = []
        self._damage_told = 0
        self.trainer = Trainer(config, dataset, self.team, start, kwargs, self.note)
        if folder is None and self.team.leads:
            folder = run_folder.new_run_folder(config.outdir, description)
        self.folder = self.team.tell(folder)
        self.output = RunOutput(self.folder, config, self.trainer)
        if state is not None:
            notes += restore(self.trainer, state)
            self.output.load_state(state["output"])
        else:
            self.output.write_start()
        self.start = self._describe_start(state is not None)
        self.output.log(self.start)
        for line in notes + self._remarks():
            self.note(line)
        self._first_nimg = self.trainer.cur_nimg

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
        own = _plain(config)
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
        state = capture(self.trainer, config=_plain(self.config), output=self.output.state())
        if state is not None:
            write_state(self.folder, state, self.config.keep_states)
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
        self.team.leave()


def _plain(config: TrainConfig) -> dict:
    """As the state's file stores it: lists for tuples."""
    record = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}


def train(config: TrainConfig, stop: Callable[[], bool] | None = None) -> Iterator[Step]:
    """Train as `config` says, yielding a `Step` after every batch.

    In a program that torchrun started, every process calls this alike. `stop` is asked after
    every batch; when it answers true in any process the state is written and the last step has
    `stopped`. Raises ValueError for options or data that do not fit, before anything is written.
    """
    run = Run(config)
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
