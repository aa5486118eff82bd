"""Everything that training writes to a run's folder but states and the progress page."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from sg3.checkpoints.snapshot_names import snapshot_number
from sg3.data.base import TrainingImages
from sg3.files import write_text
from sg3.media.images import image_grid, save_png
from sg3.metrics import evaluate, write_result
from sg3.system import peak_memory_bytes
from sg3.training.advice import TrainingDoctor, grid_diversity
from sg3.training.config import TrainConfig
from sg3.training.forecast import Clock, Pace, format_duration, remaining
from sg3.training.official_stats import official_stats
from sg3.training.posthoc_ema import write_averages
from sg3.training.run_folder import OPTIONS, append_jsonl, format_seconds
from sg3.training.snapshots import BestSnapshots, snapshot_networks
from sg3.training.state import writing
from sg3.training.trainer import Trainer

#: Images of a metric at whose end processes may differ in the number of their batches.
LAST_IMAGES = 64


class MetricStopped(Exception):
    """A metric was interrupted, on all processes."""


def progress_line(progress: dict[str, Any], stats: dict[str, dict[str, float]]) -> str:
    """Return the line of a tick: progress, speed, memory, scores, losses."""

    def mean(name: str) -> str:
        return f"{stats[name]['mean']:.3f}" if name in stats else "-"

    parts = [
        f"tick {progress['tick']:<4d}",
        f"kimg {progress['kimg']:<8.1f}",
        f"time {format_seconds(progress['total_seconds']):<11s}",
        f"eta {format_duration(progress['eta_seconds']):<7s}",
        f"sec/tick {progress['sec_per_tick']:<7.1f}",
        f"sec/kimg {progress['sec_per_kimg']:<7.2f}",
        f"maintenance {progress['maintenance_seconds']:<5.1f}",
        f"waiting {progress['waiting']:<5.1%}",
        f"cpumem {progress['cpu_mem_gb']:<5.2f}",
        f"scores real {mean('Loss/scores/real')} fake {mean('Loss/scores/fake')}",
        f"loss G {mean('Loss/G/loss')} D {mean('Loss/D/loss')}",
        f"r1 {mean('Loss/r1_penalty')}",
    ]
    if "gpu_mem_gb" in progress:
        parts.insert(9, f"gpumem {progress['gpu_mem_gb']:<5.2f}")
    if "augment_p" in progress:
        parts.append(f"augment {progress['augment_p']:.3f}")
    if progress["nonfinite_gradients"]:
        parts.append(f"non-finite gradients {progress['nonfinite_gradients']}")
    return "  ".join(parts)


def memory_gb(device: torch.device) -> dict[str, float]:
    """Return the process's peak memory in GiB; on CUDA also the peak since the last call."""
    used = {"cpu_mem_gb": peak_memory_bytes() / 2**30}
    if device.type == "cuda":
        used["gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        used["gpu_reserved_gb"] = torch.cuda.max_memory_reserved(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return used


def choose_grid_items(dataset: TrainingImages, columns: int, rows: int) -> list[int]:
    """Choose the items of the grid, row by row; with labels every row shows one label."""
    random = np.random.RandomState(0)
    if dataset.label_dim == 0:
        order = list(range(len(dataset)))
        random.shuffle(order)
        return [order[i % len(order)] for i in range(columns * rows)]
    groups: dict[tuple, list[int]] = {}
    for item, label in enumerate(dataset.labels(np.arange(len(dataset))).tolist()):
        # Reversed one-hot vectors sort by class number.
        groups.setdefault(tuple(label[::-1]), []).append(item)
    labels = sorted(groups)
    for label in labels:
        random.shuffle(groups[label])
    items: list[int] = []
    for y in range(rows):
        group = groups[labels[y % len(labels)]]
        items += [group[x % len(group)] for x in range(columns)]
        # A label that comes again shows its next images.
        turn = columns % len(group)
        groups[labels[y % len(labels)]] = group[turn:] + group[:turn]
    return items


def save_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """Write uint8 `[N, C, H, W]` as one PNG with `columns` images per row, atomically."""
    save_png(path, image_grid(rearrange(images, "n c h w -> n h w c"), columns))


@torch.no_grad()
def render(G: torch.nn.Module, z: torch.Tensor, c: torch.Tensor, batch: int) -> np.ndarray:
    """Generate images with constant noise, `batch` at a time: uint8 `[N, C, H, W]`.

    Rounded to the nearest level, as the official trainer does for grids; `sg3 generate` truncates.
    """
    images = []
    for z_part, c_part in zip(z.split(batch), c.split(batch), strict=True):
        image = G(z_part, c_part, noise_mode="const").to(torch.float32)
        levels = ((image + 1) * (255 / 2)).round().clamp(0, 255)
        images.append(levels.to(torch.uint8).cpu().numpy())
    return np.concatenate(images)


@dataclass(frozen=True)
class Tick:
    """Results of a tick.

    Attributes:
        line: progress for the terminal.
        stats: statistics by name.
        advice: new findings of the training doctor.
        snapshot: network file on rank 0, if one was written.
        metrics: lines of the snapshot's metrics.
        progress: counters, speed and memory.
        results: values of the snapshot's metrics, by name.
    """

    line: str
    stats: dict[str, dict[str, float]]
    advice: list[str]
    snapshot: Path | None
    metrics: list[str]
    progress: dict[str, Any]
    results: dict[str, float]

    @property
    def grid(self) -> Path | None:
        """Image grid of the snapshot."""
        if self.snapshot is None:
            return None
        number = self.snapshot.stem.removeprefix("network-")
        return self.snapshot.with_name(f"fakes{number}.png")


class RunWriter:
    """Writes the files of one run.

    Every method may be called on every rank: all take part in reductions, rank 0 writes.

    Args:
        folder: the run's folder.
        config: resolved options.
        trainer: the trainer.
        clock: seconds since the run began; the state stores them.
        pace: recent speed.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, trainer: Trainer, clock: Clock, pace: Pace
    ):
        assert config.grid is not None, "options are resolved"
        self.folder, self.config, self.trainer = folder, config, trainer
        self.clock, self.pace = clock, pace
        self.is_main = trainer.team.is_main
        self._columns, rows = config.grid
        self._items = choose_grid_items(trainer.dataset, self._columns, rows)
        # Small datasets repeat images in the grid; copies would have no diversity.
        self._distinct = sorted(
            {item: i for i, item in reversed([*enumerate(self._items)])}.values()
        )
        self._real_diversity: float | None = None
        # Its own generator: grids must not shift the numbers that training draws.
        random = torch.Generator().manual_seed(config.seed)
        z = torch.randn([len(self._items), trainer.G.z_dim], generator=random)
        self._grid_z = z.to(trainer.device)
        self._grid_c = trainer.dataset.labels(self._items).to(trainer.device)
        self._seconds_at_tick = trainer.seconds
        self._waiting_at_tick = 0.0
        self._state_written = time.time()
        self._doctor = TrainingDoctor()
        self._best = BestSnapshots()
        self._snapshot_nimg: int | None = None  # images shown at the last snapshot

    def write_start(self) -> None:
        """Write the options, a grid of real images, and a grid before training."""
        if not self.is_main:
            return
        self._write_options()
        reals = self.trainer.dataset.images(self._items).numpy()
        save_grid(self.folder / "reals.png", reals, self._columns)
        self._save_fakes("fakes_init.png")

    def options(self) -> dict[str, Any]:
        """Return the resolved options, and the arguments of the networks."""
        record = dataclasses.asdict(self.config)
        record["generator"] = self.trainer.G.init_kwargs
        record["discriminator"] = self.trainer.D.init_kwargs
        return record

    def _write_options(self) -> None:
        write_text(self.folder / OPTIONS, json.dumps(self.options(), indent=2) + "\n")

    def _save_fakes(self, name: str) -> float:
        """Write a grid of G_ema; return its diversity as a fraction of that of real images."""
        t = self.trainer
        images = render(t.G_ema, self._grid_z, self._grid_c, t.pass_size)
        save_grid(self.folder / name, images, self._columns)
        if self._real_diversity is None:  # images of the first grid, also after resuming
            items = [self._items[i] for i in self._distinct]
            self._real_diversity = grid_diversity(t.dataset.images(items).numpy())
        return grid_diversity(images[self._distinct]) / max(self._real_diversity, 1e-6)

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        if self.is_main:
            # The line is also yielded; if the disk is full, the files that matter will raise.
            # Names of files in it may not be UTF-8: their other bytes are written as escapes.
            data = (line + "\n").encode("utf-8", "backslashreplace")
            with suppress(OSError), open(self.folder / "log.txt", "ab") as file:
                file.write(data)

    def end_tick(
        self,
        with_snapshot: bool,
        with_metrics: bool,
        stop: Callable[[], bool] | None = None,
    ) -> Tick:
        """Write statistics, with `with_snapshot` images and networks, and then their metrics.

        The metrics end early where `stop` returns True on any rank.
        """
        t = self.trainer
        progress = self._progress()
        stats = t.stats.pop(t.team.sum_)
        self._seconds_at_tick, self._waiting_at_tick = t.seconds, t.waiting_seconds
        line, advice, snapshot = t.team.agree(
            partial(self._write_tick, progress, stats, with_snapshot)
        )
        measure = with_snapshot and with_metrics
        lines, results = self._measure(snapshot, stop) if measure else ([], {})
        return Tick(line, stats, advice, snapshot, lines, progress, results)

    def _write_tick(
        self, progress: dict[str, Any], stats: dict[str, dict[str, float]], with_snapshot: bool
    ) -> tuple[str, list[str], Path | None]:
        """Write what rank 0 writes; return line, advice and network file."""
        snapshot = None
        if with_snapshot:
            number = snapshot_number(self.trainer.cur_nimg, self._snapshot_nimg)
            self._snapshot_nimg = self.trainer.cur_nimg
            if self.is_main:
                with writing(self.folder):
                    snapshot, progress["grid_diversity"] = self._save_snapshot(number)
        line = progress_line(progress, stats)
        from_network, diversity = self.config.from_network, progress.get("grid_diversity")
        trained = from_network or self.trainer.tick > 0
        advice = self._doctor.check(progress, stats, diversity if trained else None, from_network)
        for text in (line, *(f"advice: {text}" for text in advice)):
            self.log(text)
        if self.is_main:
            named = {**stats, **official_stats(progress)}
            record = {"progress": progress, **named, "timestamp": time.time()}
            with writing(self.folder):
                append_jsonl(self.folder / "stats.jsonl", record)
        return line, advice, snapshot

    def _progress(self) -> dict[str, Any]:
        t = self.trainer
        seconds = t.seconds - self._seconds_at_tick
        waiting = t.waiting_seconds - self._waiting_at_tick
        shown = max(t.cur_nimg - t.tick_start_nimg, 1) / 1000
        left = remaining(self.config, t.cur_nimg, t.tick, t.tick_start_nimg)
        progress = {
            "tick": t.tick,
            "kimg": t.cur_nimg / 1000,
            "total_seconds": self.clock.seconds,
            "eta_seconds": self.pace.eta_sec(left),
            "sec_per_tick": seconds,
            "sec_per_kimg": seconds / shown,
            "maintenance_seconds": self.pace.maintenance_sec,
            "waiting": waiting / max(seconds, 1e-9),  # fraction of the steps' time, on this rank
            "nonfinite_gradients": t.nonfinite_gradients,
            "images_per_pass": t.pass_size,
            **memory_gb(t.device),
        }
        if t.augment_p is not None:
            progress["augment_p"] = float(t.augment_p)
        return progress

    def _save_snapshot(self, number: str) -> tuple[Path, float]:
        diversity = self._save_fakes(f"fakes{number}.png")
        path = self.folder / f"network-{number}.safetensors"
        snapshot_networks(path, self.trainer, self.config)
        if self.config.posthoc_ema:
            write_averages(self.folder / f"ema-{number}.safetensors", self.trainer)
        return path, diversity

    def _measure(
        self, snapshot: Path | None, stop: Callable[[], bool] | None
    ) -> tuple[list[str], dict[str, float]]:
        """Evaluate the metrics of G_ema on all ranks together; return their lines and results."""
        t, lines = self.trainer, []
        results: dict[str, float] = {}
        progress = False if stop is None else self._raise_if_stopped(stop)
        for name in self.config.metrics:
            # A metric draws random numbers too, which must not change the rest of the run.
            try:
                with torch.random.fork_rng():
                    result = evaluate(name, t.G_ema, t.dataset, team=t.team, progress=progress)
            except MetricStopped:
                lines.append(f"{name} was stopped; sg3 metrics can measure the snapshot later")
                break
            except ValueError as error:  # such as NaN images, from which a run can recover
                lines.append(f"{name} could not be measured: {error}")
                continue
            result = {**result, "kimg": t.cur_nimg / 1000}
            results |= result["results"]
            lines += [f"{key} {value:.4g}" for key, value in result["results"].items()]
            is_first = name == self.config.metrics[0]
            lines += t.team.agree(partial(self._write_metric, result, snapshot, is_first))
        for line in lines:
            self.log(line)
        return lines, results

    def _raise_if_stopped(self, stop: Callable[[], bool]) -> Callable[[str, int, int], None]:
        """Return a function for the progress of a metric, which raises `MetricStopped`."""
        team = self.trainer.team

        def check(stage: str, done: int, total: int) -> None:
            # Processes ask together, so not in the last batches, which some do not have.
            if (team.size == 1 or done + LAST_IMAGES <= total) and team.any(stop()):
                raise MetricStopped

        return check

    def _write_metric(
        self, result: dict[str, Any], snapshot: Path | None, may_be_best: bool
    ) -> list[str]:
        """Write a result, on rank 0 (with `snapshot`); return a line if it is the best so far."""
        with writing(self.folder):
            if snapshot is not None:
                write_result(result, self.folder, snapshot.name)
            line = self._best.add(result, result["kimg"], snapshot) if may_be_best else None
        return [line] if line else []

    def state_is_old(self) -> bool:
        """Whether the newest state was written more than `state_minutes` ago."""
        return time.time() - self._state_written > self.config.state_minutes * 60

    def state_was_written(self) -> None:
        """Restart the clock of `state_is_old`."""
        self._state_written = time.time()

    def state(self) -> dict[str, Any]:
        """Return plain values for the training state."""
        return {
            "doctor": self._doctor.state(),
            "best": self._best.state(),
            "snapshot_nimg": self._snapshot_nimg,
            "seconds": self.clock.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state`: clean up and rewrite what may have changed."""
        self._seconds_at_tick = self.trainer.seconds
        self._doctor.load_state(state.get("doctor", {}))
        self._best.load_state(state.get("best", {}))
        # Earlier versions did not store it, but a state with nearly every snapshot.
        self._snapshot_nimg = state.get("snapshot_nimg", self.trainer.cur_nimg)
        # Earlier versions stored the seconds of the steps alone.
        self.clock.add_earlier(state.get("seconds", self.trainer.seconds))
        if self.is_main:
            for unfinished in self.folder.glob(".tmp-*"):  # of a killed process
                unfinished.unlink()
            self._write_options()  # some may change, such as the length of the run
