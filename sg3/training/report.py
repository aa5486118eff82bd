"""Lines and files that tell how a run is doing."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import torch

from sg3.training.config import TrainConfig


def append_jsonl(path: Path, record: dict) -> None:
    """Append `record` as one line of JSON; NaN becomes null."""
    with open(path, "ab+") as file:
        if file.tell() and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")  # a crash had cut the last line off
        file.write(json.dumps(_finite(record)).encode() + b"\n")


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, float) and value != value:
        return None
    return value


def format_seconds(seconds: float) -> str:
    """Like 1d 02h 03m, 2h 03m 04s, 3m 04s or 4s."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02d}m {s % 60:02d}s"
    return f"{s // 86400}d {s // 3600 % 24:02d}h {s // 60 % 60:02d}m"


def progress_line(progress: dict, stats: dict) -> str:
    """One line per tick: progress, speed, scores."""

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
    """Most memory that the process has used so far, in GiB; on CUDA since the last call."""
    used = {"cpu_mem_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        used["gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        used["gpu_reserved_gb"] = torch.cuda.max_memory_reserved(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return used


def snapshot_networks(path: Path, trainer, config: TrainConfig) -> None:
    """Write G, D, G_ema and the augmentation as a network file with its provenance."""
    import sg3

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
    networks = sg3.Networks(
        G_ema=trainer.G_ema, G=trainer.G, D=trainer.D, augment_pipe=trainer.augment_pipe, meta=meta
    )
    sg3.save(networks, path)
