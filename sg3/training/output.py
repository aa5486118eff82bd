"""What a run leaves in its folder: pictures, networks, statistics, a page (REFERENCE.md §4.8, §4.9)."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sg3.files import write_text
from sg3.metrics import evaluate, write_result
from sg3.training import run_folder, tensorboard
from sg3.training.advice import TrainingDoctor, grid_diversity
from sg3.training.config import TrainConfig
from sg3.training.grids import choose_grid_items, render, save_grid
from sg3.training.progress_page import write_progress_page
from sg3.training.report import append_jsonl, memory_gb, progress_line, snapshot_networks
from sg3.training.state import writing
from sg3.training.trainer import Trainer


@dataclass(frozen=True)
class Tick:
    """What a tick brought: its line and statistics, advice, and the networks if saved."""

    line: str
    stats: dict
    advice: list[str]
    snapshot: Path | None
    metrics: list[str]  # lines


class RunOutput:
    """Writer of a run's folder. Processes other than rank 0 take part in sums, and write nothing.

    Every method may be called on every process.
    """

    def __init__(self, folder: Path, config: TrainConfig, trainer: Trainer):
        self.folder, self.config, self.trainer = folder, config, trainer
        self.leads = trainer.team.leads
        self._choose_grid()
        self._seconds_at_tick = trainer.seconds
        self._maintenance = 0.0
        self._state_written = time.time()
        self._doctor = TrainingDoctor()
        self._events = None

    def _choose_grid(self) -> None:
        trainer, (columns, rows) = self.trainer, self.config.grid
        self._items = choose_grid_items(trainer.dataset, columns, rows)
        random = torch.Generator().manual_seed(self.config.seed)
        z = torch.randn([len(self._items), trainer.G.z_dim], generator=random)
        self._grid_z = z.to(trainer.device)
        self._grid_c = trainer.dataset.labels(self._items).to(trainer.device)

    def write_start(self) -> None:
        """The options, a grid of real images, a grid before training."""
        if not self.leads:
            return
        self._write_options()
        self._events = tensorboard.open_writer(self.folder)
        reals = self.trainer.dataset.images(self._items).numpy()
        save_grid(self.folder / "reals.png", reals, self.config.grid[0])
        self._save_fakes("fakes_init.png")

    def _write_options(self) -> None:
        record = dataclasses.asdict(self.config)
        record["generator"] = self.trainer.G.init_kwargs
        record["discriminator"] = self.trainer.D.init_kwargs
        write_text(self.folder / run_folder.OPTIONS, json.dumps(record, indent=2) + "\n")

    def _save_fakes(self, name: str) -> float:
        """Write the grid of the averaged generator; how much its images differ."""
        t = self.trainer
        images = render(t.G_ema, self._grid_z, self._grid_c, t.pass_size)
        save_grid(self.folder / name, images, self.config.grid[0])
        return grid_diversity(images)

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        if self.leads:
            # The terminal has it too; what a run cannot do without will say that the disk is full.
            with suppress(OSError), open(self.folder / "log.txt", "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def end_tick(self, with_snapshot: bool) -> Tick:
        """Write statistics; pictures and networks too if `with_snapshot`."""
        t, started = self.trainer, time.time()
        progress = self._progress()
        stats = t.stats.pop(t.team.sum_)
        self._seconds_at_tick = t.seconds
        line, advice, snapshot = t.team.agree(
            partial(self._write_tick, progress, stats, with_snapshot)
        )
        metrics = self._measure(snapshot) if with_snapshot else []
        self._maintenance = time.time() - started
        return Tick(line, stats, advice, snapshot, metrics)

    def _write_tick(
        self, progress: dict, stats: dict, with_snapshot: bool
    ) -> tuple[str, list[str], Path | None]:
        """The tick's line, advice and networks."""
        snapshot = None
        if with_snapshot and self.leads:
            with writing(self.folder):
                snapshot, progress["grid_diversity"] = self._save_snapshot()
        line = progress_line(progress, stats)
        advice = self._doctor.check(progress, stats, progress.get("grid_diversity"))
        for text in (line, *(f"advice: {text}" for text in advice)):
            self.log(text)
        if self.leads:
            record = {"progress": progress, **stats, "timestamp": time.time()}
            with writing(self.folder):
                append_jsonl(self.folder / "stats.jsonl", record)
        if self._events is not None:
            tensorboard.write_tick(self._events, progress, stats, self.trainer.cur_nimg)
        return line, advice, snapshot

    def _progress(self) -> dict:
        t = self.trainer
        seconds = t.seconds - self._seconds_at_tick
        shown = max(t.cur_nimg - t.tick_start_nimg, 1) / 1000
        progress = {
            "tick": t.tick,
            "kimg": t.cur_nimg / 1000,
            "total_seconds": t.seconds,
            "sec_per_tick": seconds,
            "sec_per_kimg": seconds / shown,
            "maintenance_seconds": self._maintenance,
            "nonfinite_gradients": t.nonfinite_gradients,
            "images_per_pass": t.pass_size,
            **memory_gb(t.device),
        }
        if t.augment_pipe is not None:
            progress["augment_p"] = float(t.augment_pipe.p)
        return progress

    def _save_snapshot(self) -> tuple[Path, float]:
        t, number = self.trainer, f"{self.trainer.cur_nimg // 1000:06d}"
        diversity = self._save_fakes(f"fakes{number}.png")
        path = self.folder / f"network-{number}.safetensors"
        snapshot_networks(path, t, self.config)
        return path, diversity

    def _measure(self, snapshot: Path | None) -> list[str]:
        """Metrics of the averaged network, by all processes together; their lines."""
        t, lines = self.trainer, []
        for name in self.config.metrics:
            # What a metric draws must not change what the run draws next.
            try:
                with torch.random.fork_rng():
                    result = evaluate(name, t.G_ema, t.dataset, team=t.team)
            except ValueError as error:  # images that are not numbers: the run may recover
                lines.append(f"{name} could not be measured: {error}")
                continue
            result = {**result, "kimg": t.cur_nimg / 1000}
            t.team.agree(partial(self._write_metric, result, snapshot))
            lines += [f"{key} {value:.4g}" for key, value in result["results"].items()]
        for line in lines:
            self.log(line)
        return lines

    def _write_metric(self, result: dict, snapshot: Path | None) -> None:
        if self.leads:
            with writing(self.folder):
                write_result(result, self.folder, snapshot.name)

    def finish_tick(self) -> None:
        """Rewrite the page from the files of the tick; a run does not end for a page."""
        if not self.leads:
            return
        try:
            write_progress_page(self.folder)
        except OSError as error:
            self.log(f"the page could not be written: {error}")

    def state_is_old(self) -> bool:
        """Whether the last state is `state_minutes` old."""
        return time.time() - self._state_written > self.config.state_minutes * 60

    def state_was_written(self) -> None:
        """Start that clock afresh."""
        self._state_written = time.time()

    def state(self) -> dict:
        """What a continued run's output needs, as plain values."""
        return {"doctor": self._doctor.state()}

    def load_state(self, state: dict) -> None:
        """Continue from `state()`."""
        self._seconds_at_tick = self.trainer.seconds
        self._doctor.load_state(state.get("doctor", {}))
        if self.leads:
            for unfinished in self.folder.glob(".tmp-*"):  # a killed session's
                unfinished.unlink()
            self._write_options()  # some may have changed, such as how long to go on
            self._events = tensorboard.open_writer(self.folder, self.trainer.cur_nimg)

    def close(self) -> None:
        """Close what is open."""
        if self._events is not None:
            self._events.close()
