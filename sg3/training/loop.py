"""The training loop as an iterator: it works, writes the run's files, and yields every step."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sg3 import allocator
from sg3.data import ImageDataset
from sg3.training.config import TrainConfig
from sg3.training.grids import choose_grid_items, render, save_grid
from sg3.training.report import append_jsonl, progress_line, snapshot_networks
from sg3.training.run_folder import latest_run_folder, new_run_folder, run_description
from sg3.training.state import FILE_NAME, capture, read_state, restore, write_state
from sg3.training.trainer import Trainer


@dataclass(frozen=True)
class Step:
    """What `train` yields: after every batch, with `line` and `stats` when a tick ended."""

    nimg: int
    total_nimg: int
    session_nimg: int  # shown since this call of `train`
    folder: Path
    start: str  # how this session began, one sentence
    line: str | None = None
    stats: dict | None = None
    snapshot: Path | None = None
    done: bool = False
    stopped: bool = False


def _make_dataset(config: TrainConfig) -> ImageDataset:
    return ImageDataset(
        config.data,
        use_labels=config.cond,
        max_size=config.max_images,
        xflip=config.mirror,
        random_seed=config.seed,
        cache=config.cache,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Run:
    """A trainer with its folder: opening, ticks, pictures, snapshots, states."""

    def __init__(self, config: TrainConfig):
        # Options that only say how long, or where from, do not make another run.
        self.dataset = _make_dataset(config)
        resolution = self.dataset.resolution
        if resolution < 4 or resolution & (resolution - 1):
            raise ValueError(
                f"data: images are {resolution} pixels wide, expected a power of two; "
                "prepare them with: sg3 dataset"
            )
        self.config = config = config.resolved(resolution)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        device = _device(config.device)
        if device.type == "cpu":
            allocator.keep_large_blocks()
        description = run_description(config, self.dataset.name)
        self.folder, self._missing = None, ""
        if config.resume == "latest":
            self.folder = latest_run_folder(config.outdir, description)
        self.resumed = self.folder is not None
        state = read_state(self.folder / FILE_NAME) if self.resumed else None
        started_from_network = config.resume not in (None, "latest")
        if started_from_network or (state is not None and state["config"].get("from_network")):
            self.config = config = config.begun_with_network()
        self.trainer = Trainer(config, self.dataset, device)
        if started_from_network:
            self._load_start(config.resume)
        if self.folder is None:
            self.folder = new_run_folder(config.outdir, description)
        self._choose_grid()
        self.start = self._describe_start()
        if state is not None:
            self._check_same(state["config"])
            restore(self.trainer, state)
        else:
            self._write_start()
        self._first_nimg = self.trainer.cur_nimg
        self._seconds_at_tick = self.trainer.seconds
        self._maintenance = 0.0

    def _load_start(self, source: str) -> None:
        import sg3  # here, because sg3 itself is what this module belongs to

        missing = self.trainer.load_networks(sg3.load(source))
        if missing:
            self._missing = f"; {len(missing)} tensors start random, first {missing[0]}"

    def _describe_start(self) -> str:
        config = self.config
        text = f"{len(self.dataset)} images, gamma {config.gamma:g}"
        if self.resumed:
            return f"going on with {text}"
        where = "scratch" if config.resume in (None, "latest") else config.resume
        return f"starting from {where} with {text}{self._missing}"

    def _record(self) -> dict:
        return dataclasses.asdict(self.config)

    def _check_same(self, saved: dict) -> None:
        """Refuse to continue with options that would change what is being trained."""
        free = ("outdir", "data", "kimg", "tick", "snap", "resume", "device", "threads", "cache")
        own = json.loads(json.dumps(self._record()))
        saved = json.loads(json.dumps(saved))
        for name, value in own.items():
            if name not in free and saved.get(name) != value:
                raise ValueError(
                    f"--{name.replace('_', '-')}: got {value}, but the run in {self.folder} was "
                    f"started with {saved.get(name)}; repeat its command, or leave out --resume"
                )

    def _choose_grid(self) -> None:
        columns, rows = self.config.grid
        self._items = choose_grid_items(self.dataset, columns, rows)
        random = torch.Generator().manual_seed(self.config.seed)
        z = torch.randn([len(self._items), self.trainer.G.z_dim], generator=random)
        self._grid_z = z.to(self.trainer.device)
        self._grid_c = self.dataset.labels(self._items).to(self.trainer.device)

    def _write_start(self) -> None:
        record = {**self._record(), "generator": self.trainer.G.init_kwargs}
        record["discriminator"] = self.trainer.D.init_kwargs
        text = json.dumps(record, indent=2, default=str)
        (self.folder / "training_options.json").write_text(text + "\n")
        reals = self.dataset.images(self._items).numpy()
        save_grid(self.folder / "reals.png", reals, self.config.grid[0])
        self.save_fakes("fakes_init.png")

    def save_fakes(self, name: str) -> None:
        """Write the grid of the averaged generator."""
        images = render(self.trainer.G_ema, self._grid_z, self._grid_c, self.config.batch_gpu)
        save_grid(self.folder / name, images, self.config.grid[0])

    def save_state(self) -> Path:
        """Write the training state atomically."""
        path = self.folder / FILE_NAME
        write_state(path, capture(self.trainer, self._record()))
        return path

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def tick_is_due(self) -> bool:
        """After the first batch, then every `tick` kimg."""
        t = self.trainer
        started = t.tick_start_nimg
        return t.tick == 0 or self.done or t.cur_nimg >= started + self.config.tick * 1000

    @property
    def done(self) -> bool:
        return self.trainer.cur_nimg >= self.config.kimg * 1000

    def end_tick(self) -> Step:
        """Statistics, and pictures, networks and state when they are due."""
        t, started = self.trainer, time.time()
        kimg = t.cur_nimg / 1000
        seconds = t.seconds - self._seconds_at_tick
        shown = max(t.cur_nimg - t.tick_start_nimg, 1) / 1000
        stats = t.stats.pop()
        progress = {
            "tick": t.tick,
            "kimg": kimg,
            "total_seconds": t.seconds,
            "sec_per_tick": seconds,
            "sec_per_kimg": seconds / shown,
            "maintenance_seconds": self._maintenance,
            "nonfinite_gradients": t.nonfinite_gradients,
        }
        snapshot = None
        if self.done or t.tick % self.config.snap == 0:
            snapshot = self._save_all()
        append_jsonl(
            self.folder / "stats.jsonl", {"progress": progress, **stats, "timestamp": time.time()}
        )
        line = progress_line(progress, stats)
        self.log(line)
        t.tick += 1
        t.tick_start_nimg = t.cur_nimg
        self._seconds_at_tick = t.seconds
        if snapshot is not None:
            self.save_state()  # after the counters: the next session starts a new tick
        self._maintenance = time.time() - started
        return self.report(line=line, stats=stats, snapshot=snapshot, done=self.done)

    def report(self, **what) -> Step:
        """The `Step` to yield now."""
        return Step(
            nimg=self.trainer.cur_nimg,
            total_nimg=round(self.config.kimg * 1000),
            session_nimg=self.trainer.cur_nimg - self._first_nimg,
            folder=self.folder,
            start=self.start,
            **what,
        )

    def _save_all(self) -> Path:
        t, number = self.trainer, f"{self.trainer.cur_nimg // 1000:06d}"
        self.save_fakes(f"fakes{number}.png")
        path = self.folder / f"network-snapshot-{number}.safetensors"
        snapshot_networks(path, t.G, t.D, t.G_ema, self.config, t.cur_nimg)
        return path


def train(config: TrainConfig, stop: Callable[[], bool] | None = None) -> Iterator[Step]:
    """Train as `config` says, yielding a `Step` after every batch.

    `stop` is asked after every batch; when it answers true the state is written and the last
    step has `stopped`. Raises ValueError for options or data that do not fit, before anything
    is written.
    """
    run = Run(config)
    try:
        while not run.done:
            run.trainer.step()
            wants_stop = stop is not None and stop()
            step = run.end_tick() if run.tick_is_due() and not wants_stop else None
            if wants_stop:
                run.save_state()
                yield run.report(stopped=True)
                return
            yield step or run.report()
    finally:
        run.trainer.close()
