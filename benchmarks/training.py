"""Speed of training: seconds per thousand images, by operator.

    python -m benchmarks.training                    # two CPU processes, or one GPU
    python -m benchmarks.training --cases 1024 --batch-gpu 8

Each case runs `sg3.training.Trainer` on random images in memory: a warm-up, then full cycles of 16
steps, which include lazy regularization. A further cycle is profiled for the fraction of time of
each operator. The processes are started by this command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes.arguments import argument_parser
from sg3.data import open_dataset
from sg3.distributed.team import Team
from sg3.training import TrainConfig
from sg3.training.trainer import Trainer

CYCLE = 16  # D's regularization interval


@dataclass(frozen=True)
class Case:
    """A network, and options of its training."""

    resolution: int
    options: dict


CASES = {
    "mini-64": Case(
        64,
        dict(
            cbase=2048, cmax=48, dcbase=1024, dcmax=128, num_layers=6, margin_size=5, z_dim=64,
            w_dim=128, batch=16, aug="noaug",
        ),
    ),
    "64": Case(64, dict(cbase=2048, cmax=64, batch=16)),
    "128": Case(128, dict(cbase=4096, cmax=64, batch=16)),
    "256": Case(256, dict(cbase=16384, batch=32)),
    "1024": Case(1024, dict(batch=32)),
}  # fmt: skip
#: Part of an operator's name → group that its time counts for.
GROUPS = {
    "conv": "convolutions",
    "filtered_lrelu": "filtered_lrelu",
    "bias_act": "bias_act",
    "upfirdn2d": "upfirdn2d",
    "grid_sampler": "augmentation",
    "reflection_pad": "augmentation",
    "adam": "optimizer",
    "_foreach": "optimizer",
}


def group_of(name: str) -> str:
    """Return the group that the time of operator `name` counts for."""
    return next((group for part, group in GROUPS.items() if part in name.lower()), "other")


def make_data(folder: Path, resolution: int, num: int = 64) -> None:
    """Write random images."""
    random = np.random.RandomState(0)
    for i in range(num):
        pixels = random.randint(0, 255, [resolution, resolution, 3], np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png", compress_level=0)


def measure(case: Case, data: Path, seconds: float, batch_gpu: int | None) -> dict | None:
    """Return seconds per kimg and the fraction of time of each group."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    team = Team.join(device)
    config = TrainConfig(outdir="unused", data=str(data), batch_gpu=batch_gpu, **case.options)
    config = config.resolved(case.resolution, team.size)
    trainer = Trainer(config, open_dataset(str(data)), team)

    def cycle() -> float:
        started = time.perf_counter()
        for _ in range(CYCLE):
            trainer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    cycle()
    spent = [cycle()]
    while team.broadcast_object(sum(spent) < seconds):
        spent.append(cycle())
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        cycle()
    times: dict[str, float] = {}
    for event in profile.key_averages():
        spent_here = (
            event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        )
        times[group_of(event.key)] = times.get(group_of(event.key), 0) + spent_here
    trainer.close()
    team.close()
    total = sum(times.values())
    kimg = CYCLE * config.batch / 1000
    return {
        "sec_per_kimg": min(spent) / kimg,
        "sec_per_kimg_median": float(np.median(spent)) / kimg,
        "cycles": len(spent),
        "processes": team.size,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "shares": {k: round(v / total, 3) for k, v in sorted(times.items(), key=lambda x: -x[1])},
    }


def run_case(name: str, args: argparse.Namespace, folder: Path) -> dict:
    """Run `measure` in new processes."""
    result = folder / "result.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={args.processes}", "-m", "benchmarks.training"]
    command += ["--measure", name, "--folder", str(folder), "--seconds", str(args.seconds)]
    command += ["--batch-gpu", str(args.batch_gpu)] if args.batch_gpu else []
    environment = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **os.environ}
    subprocess.run(command, check=True, env=environment)
    return json.loads(result.read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    gpu = torch.cuda.is_available()
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=["mini-64", "64", "128"], help="networks"
    )
    parser.add_argument(
        "--processes", type=int, default=1 if gpu else 2, help="number of processes"
    )
    parser.add_argument("--seconds", type=float, default=60, help="minimum duration per case")
    parser.add_argument("--batch-gpu", type=int, help="images per pass")
    parser.add_argument("--json", help="JSON file for the results")
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        folder = Path(args.folder)
        found = measure(CASES[args.measure], folder / "data", args.seconds, args.batch_gpu)
        if os.environ.get("RANK", "0") == "0":
            (folder / "result.json").write_text(json.dumps(found))
        return
    results = {}
    for name in args.cases:
        with tempfile.TemporaryDirectory() as top:
            (Path(top) / "data").mkdir()
            make_data(Path(top) / "data", CASES[name].resolution)
            results[name] = found = run_case(name, args, Path(top))
        groups = ", ".join(f"{k} {v:.0%}" for k, v in found["shares"].items() if v >= 0.01)
        print(f"{name:>8}: {found['sec_per_kimg']:8.1f} s/kimg ({found['device']}; {groups})")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
