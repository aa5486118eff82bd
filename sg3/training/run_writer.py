"""Everything that training writes to a run's folder but states and the progress page."""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from sg3.checkpoints.networks import Networks
from sg3.checkpoints.safetensors_io import save
from sg3.data.base import TrainingImages
from sg3.files import write_text
from sg3.media.images import image_grid, save_png
from sg3.metrics import evaluate, write_result
from sg3.training.advice import TrainingDoctor, grid_diversity
from sg3.training.config import TrainConfig
from sg3.training.run_folder import OPTIONS, append_jsonl, format_seconds
from sg3.training.state import writing
from sg3.training.trainer import Trainer


def progress_line(progress: dict[str, Any], stats: dict[str, dict[str, float]]) -> str:
    """Return the line of a tick: progress, speed, memory, scores, losses."""

    def mean(name: str) -> str:
        return f"{stats[name]['mean']:.3f}" if name in stats else "-"

    parts = [
        f"tick {progress['tick']:<4d}",
        f"kimg {progress['kimg']:<8.1f}",
        f"time {format_seconds(progress['total_seconds']):<11s}",
        f"sec/tick {progress['sec_per_tick']:<7.1f}",
        f"sec/kimg {progress['sec_per_kimg']:<7.2f}",
        f"maintenance {progress['maintenance_seconds']:<5.1f}",
        f"cpumem {progress['cpu_mem_gb']:<5.2f}",
        f"scores real {mean('Loss/scores/real')} fake {mean('Loss/scores/fake')}",
        f"loss G {mean('Loss/G/loss')} D {mean('Loss/D/loss')}",
        f"r1 {mean('Loss/r1_penalty')}",
    ]
    if "gpu_mem_gb" in progress:
        parts.insert(7, f"gpumem {progress['gpu_mem_gb']:<5.2f}")
    if "augment_p" in progress:
        parts.append(f"augment {progress['augment_p']:.3f}")
    if progress["nonfinite_gradients"]:
        parts.append(f"non-finite gradients {progress['nonfinite_gradients']}")
    return "  ".join(parts)


def memory_gb(device: torch.device) -> dict[str, float]:
    """Return the process's peak memory in GiB; on CUDA also the peak since the last call."""
    # Linux counts `ru_maxrss` in KiB.
    used = {"cpu_mem_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        used["gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        used["gpu_reserved_gb"] = torch.cuda.max_memory_reserved(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return used


def open_events(folder: Path, start_nimg: int | None = None) -> Any:
    """Return a TensorBoard `SummaryWriter` for `folder`, or None where it is missing or broken.

    `start_nimg` is the number of images of a resumed run; events that an earlier session wrote
    beyond it are hidden, as they will be written again.
    """
    purge_step = None if start_nimg is None else start_nimg + 1
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=purge_step)
    except Exception:  # an extra that other releases of protobuf and numpy break in many ways
        return None


def write_events(writer: Any, progress: dict, stats: dict, nimg: int) -> None:
    """Write all numbers of a tick to TensorBoard, at step `nimg`."""
    for name, value in progress.items():
        if isinstance(value, (int, float)):
            writer.add_scalar(f"Progress/{name}", value, global_step=nimg)
    for name, moments in stats.items():
        writer.add_scalar(name, moments["mean"], global_step=nimg)
    writer.flush()


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


def snapshot_networks(path: Path, trainer: Trainer, config: TrainConfig) -> None:
    """Write G, D, G_ema and the augmentation as a network file with its provenance."""
    meta = {
        "command": "sg3 train",
        "loss": type(trainer.loss).__name__,
        "cfg": config.cfg,
        "data": Path(config.data).name,
        "started_from": config.start_network if config.from_network else None,
        "kimg": trainer.cur_nimg / 1000,
        "batch": config.batch,
        "gamma": config.gamma,
        "seed": config.seed,
        "torch": torch.__version__,
    }
    networks = Networks(
        G_ema=trainer.G_ema, G=trainer.G, D=trainer.D, augment_pipe=trainer.augment_pipe, meta=meta
    )
    save(networks, path)


@dataclass(frozen=True)
class Tick:
    """Results of a tick.

    Attributes:
        line: progress for the terminal.
        stats: statistics by name.
        advice: new findings of the training doctor.
        snapshot: network file on rank 0, if one was written.
        metrics: lines of the snapshot's metrics.
    """

    line: str
    stats: dict[str, dict[str, float]]
    advice: list[str]
    snapshot: Path | None
    metrics: list[str]


class RunWriter:
    """Writes the files of one run.

    Every method may be called on every rank: all take part in reductions, rank 0 writes.
    """

    def __init__(self, folder: Path, config: TrainConfig, trainer: Trainer):
        assert config.grid is not None, "options are resolved"
        self.folder, self.config, self.trainer = folder, config, trainer
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
        self._maintenance = 0.0
        self._state_written = time.time()
        self._doctor = TrainingDoctor()
        self._events: Any = None

    def write_start(self) -> None:
        """Write the options, a grid of real images, and a grid before training."""
        if not self.is_main:
            return
        self._write_options()
        self._events = open_events(self.folder)
        reals = self.trainer.dataset.images(self._items).numpy()
        save_grid(self.folder / "reals.png", reals, self._columns)
        self._save_fakes("fakes_init.png")

    def _write_options(self) -> None:
        record = dataclasses.asdict(self.config)
        record["generator"] = self.trainer.G.init_kwargs
        record["discriminator"] = self.trainer.D.init_kwargs
        write_text(self.folder / OPTIONS, json.dumps(record, indent=2) + "\n")

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
            with suppress(OSError), open(self.folder / "log.txt", "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def end_tick(self, with_snapshot: bool) -> Tick:
        """Write statistics, and with `with_snapshot` also images, networks and metrics."""
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
        self, progress: dict[str, Any], stats: dict[str, dict[str, float]], with_snapshot: bool
    ) -> tuple[str, list[str], Path | None]:
        """Write what rank 0 writes; return line, advice and network file."""
        snapshot = None
        if with_snapshot and self.is_main:
            with writing(self.folder):
                snapshot, progress["grid_diversity"] = self._save_snapshot()
        line = progress_line(progress, stats)
        from_network, diversity = self.config.from_network, progress.get("grid_diversity")
        trained = from_network or self.trainer.tick > 0
        advice = self._doctor.check(progress, stats, diversity if trained else None, from_network)
        for text in (line, *(f"advice: {text}" for text in advice)):
            self.log(text)
        if self.is_main:
            record = {"progress": progress, **stats, "timestamp": time.time()}
            with writing(self.folder):
                append_jsonl(self.folder / "stats.jsonl", record)
        if self._events is not None:
            write_events(self._events, progress, stats, self.trainer.cur_nimg)
        return line, advice, snapshot

    def _progress(self) -> dict[str, Any]:
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
        if t.augment_p is not None:
            progress["augment_p"] = float(t.augment_p)
        return progress

    def _save_snapshot(self) -> tuple[Path, float]:
        t, number = self.trainer, f"{self.trainer.cur_nimg // 1000:06d}"
        diversity = self._save_fakes(f"fakes{number}.png")
        path = self.folder / f"network-{number}.safetensors"
        snapshot_networks(path, t, self.config)
        return path, diversity

    def _measure(self, snapshot: Path | None) -> list[str]:
        """Evaluate the metrics of G_ema on all ranks together; return their lines."""
        t, lines = self.trainer, []
        for name in self.config.metrics:
            # A metric draws random numbers too, which must not change the rest of the run.
            try:
                with torch.random.fork_rng():
                    result = evaluate(name, t.G_ema, t.dataset, team=t.team)
            except ValueError as error:  # such as NaN images, from which a run can recover
                lines.append(f"{name} could not be measured: {error}")
                continue
            result = {**result, "kimg": t.cur_nimg / 1000}
            t.team.agree(partial(self._write_metric, result, snapshot))
            lines += [f"{key} {value:.4g}" for key, value in result["results"].items()]
        for line in lines:
            self.log(line)
        return lines

    def _write_metric(self, result: dict[str, Any], snapshot: Path | None) -> None:
        if snapshot is not None:  # rank 0
            with writing(self.folder):
                write_result(result, self.folder, snapshot.name)

    def state_is_old(self) -> bool:
        """Whether the newest state was written more than `state_minutes` ago."""
        return time.time() - self._state_written > self.config.state_minutes * 60

    def state_was_written(self) -> None:
        """Restart the clock of `state_is_old`."""
        self._state_written = time.time()

    def state(self) -> dict[str, Any]:
        """Return plain values for the training state."""
        return {"doctor": self._doctor.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state`: clean up and rewrite what may have changed."""
        self._seconds_at_tick = self.trainer.seconds
        self._doctor.load_state(state.get("doctor", {}))
        if self.is_main:
            for unfinished in self.folder.glob(".tmp-*"):  # of a killed process
                unfinished.unlink()
            self._write_options()  # some may change, such as the length of the run
            self._events = open_events(self.folder, self.trainer.cur_nimg)

    def close(self) -> None:
        """Close the TensorBoard writer."""
        if self._events is not None:
            self._events.close()
