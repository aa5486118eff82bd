"""What is left of a run: steps, time, disk; the clock; the statistics that tell it."""

import dataclasses
import datetime
import json
import re
import shutil
import sys
import time

import pytest
import torch
from tiny_runs import TINY_SG3, noise_images

from sg3.cli.train import _print
from sg3.training import TrainStep, forecast
from sg3.training.config import TrainConfig
from sg3.training.dry_run import describe
from sg3.training.forecast import (
    Clock,
    DiskUse,
    Pace,
    Remaining,
    disk_use,
    forecast_line,
    format_duration,
    remaining,
)
from sg3.training.loop import train
from sg3.training.official_stats import official_stats
from sg3.training.run_folder import state_paths
from sg3.training.run_writer import progress_line

SMALL = TINY_SG3 | dict(snap=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("images"), 8)


def config_of(**changes):
    return TrainConfig(outdir="", data="", **{"batch": 32, "kimg": 100, **changes})


def counted(config, nimg=0, tick=0, start=0):
    """The loop of `sg3.training.loop`, which only counts."""
    total, steps, ticks, snapshots = config.kimg * 1000, 0, 0, 0
    while nimg < total:
        nimg, steps = nimg + config.batch, steps + 1
        if not (tick == 0 or nimg >= total or nimg >= start + config.tick * 1000):
            continue
        ticks += 1
        snapshots += nimg >= total or tick % config.snap == 0
        tick, start = tick + 1, nimg
    return Remaining(steps, ticks, snapshots)


def test_a_whole_run_by_hand():
    """100 kimg at batch 32: 3125 steps; tick 0 is one step, then 25 ticks of 125 steps at most."""
    left = remaining(config_of(tick=4, snap=10))
    # Ticks 0 to 25; snapshots at 0, 10, 20, and at the end.
    assert left == Remaining(steps=3125, ticks=26, snapshots=4)
    # After tick 20: ticks 21 to 25, and the snapshot at the end.
    nimg = 32 + 20 * 4000
    assert remaining(config_of(tick=4, snap=10), nimg, 21, nimg) == Remaining(624, 5, 1)


@pytest.mark.parametrize("tick, snap, batch", [(4, 10, 32), (3.3, 4, 48), (0.5, 1, 7), (70, 3, 16)])
def test_what_is_left_equals_what_the_loop_does(tick, snap, batch):
    config = config_of(tick=tick, snap=snap, batch=batch, kimg=31)
    assert remaining(config) == counted(config)
    for steps, number, first in ((1, 1, 1), (10, 1, 1), (301, 5, 270), (301, 8, 301)):
        args = (steps * batch, number, first * batch)
        assert remaining(config, *args) == counted(config, *args)


def test_pace_by_hand():
    pace = Pace()
    assert pace.eta_sec(Remaining(10, 1, 1)) is None
    pace.add_step(60)  # compiles: left out
    assert pace.eta_sec(Remaining(10, 1, 1)) is None
    for seconds in (1, 3):
        pace.add_step(seconds)
    assert pace.eta_sec(Remaining(10, 1, 1)) == 20
    pace.add_maintenance(30, with_snapshot=True)
    pace.add_maintenance(4, with_snapshot=False)
    pace.add_maintenance(6, with_snapshot=False)
    assert pace.maintenance_sec == 6
    # 10 steps of 2, a snapshot of 30, two other ticks of 5.
    assert pace.eta_sec(Remaining(10, 3, 1)) == 20 + 30 + 10
    pace.add_maintenance(50, with_snapshot=True)  # the newest counts
    assert pace.eta_sec(Remaining(0, 1, 1)) == 50


@pytest.mark.parametrize(
    "intervals, expected", [([1, 1], 10), ([1, 16], 17), ([1, 2], 10), ([1, 100], 10)]
)
def test_the_forecast_waits_for_ten_steps_and_every_phase(intervals, expected):
    """Steps 2 to 17 contain one with R1, whatever their numbers are."""
    pace, due = Pace(), []
    for number in range(1, 40):
        pace.add_step(1.0)
        due += [number] if pace.forecast_due(intervals) else []
    assert due == [expected]


def test_disk_use_of_a_folder(tmp_path):
    for name, size in {
        "network-000000.safetensors": 100, "fakes000000.png": 10, "fakes_init.png": 7,
        "network-000200.safetensors": 120, "fakes000200.png": 30, "reals.png": 5,
        "training-state-0000200032.pt": 300, "network-best.safetensors": 999,
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(bytes(size))
    use = disk_use(tmp_path, snapshots=3, keep_states=2)
    assert use == DiskUse(3, snapshot_bytes=150, present_bytes=260, states=2, state_bytes=300)
    assert use.total_bytes == 260 + 3 * 150 + 2 * 300


def test_the_line_of_the_forecast(tmp_path, monkeypatch):
    disk = DiskUse(10, 2 * 10**9, 4 * 10**9, 2, 10**9)
    line = forecast_line(config_of(), 0.5, 3 * 3600, disk, tmp_path)
    assert line.startswith("forecast: 64 images/s, 100 kimg reached in 3h 00m, on 20")
    assert "10 more snapshots of 2 GB, 2 states of 1 GB, 26 GB in total" in line
    when = datetime.datetime.strptime(re.search(r"on (\d{4}-\S+ \S+);", line)[1], "%Y-%m-%d %H:%M")
    ahead = (when - datetime.datetime.now()).total_seconds()
    assert 3 * 3600 - 120 < ahead <= 3 * 3600
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda p: usage._replace(free=19 * 10**9))
    line = forecast_line(config_of(), 0.5, 3 * 3600, disk, tmp_path)  # 20 GB are to come
    assert line.endswith("but only 19 GB are free: raise `snap`, or make room")
    small = DiskUse(1, 4 * 10**6, 0, 1, 10**6)
    assert "of 4 MB, 1 states of 1 MB, 5 MB in total" in forecast_line(
        config_of(), 0.5, 9, small, tmp_path
    )
    assert "calendar" in forecast_line(config_of(), 0.5, 1e18, disk, tmp_path)


@pytest.mark.parametrize(
    "seconds, text",
    [(None, "-"), (0, "0s"), (310, "5m 10s"), (11520, "3h 12m"), (86400 * 2 + 3600 * 3, "2d 03h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_the_clock_sums_sessions(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: now[0])
    clock = Clock()
    now[0] = 107.0
    assert clock.seconds == 7
    clock.add_earlier(50)
    now[0] = 109.0
    assert clock.seconds == 59


def test_official_names_by_hand():
    progress = {
        "tick": 3, "kimg": 12.0, "total_seconds": 7200.0, "sec_per_tick": 20.0, "sec_per_kimg": 5.0,
        "maintenance_seconds": 1.5, "cpu_mem_gb": 2.0,
    }  # fmt: skip
    found = official_stats(progress)
    assert {name: moments["mean"] for name, moments in found.items()} == {
        "Progress/tick": 3, "Progress/kimg": 12.0, "Progress/augment": 0.0,
        "Timing/total_sec": 7200.0, "Timing/sec_per_tick": 20.0, "Timing/sec_per_kimg": 5.0,
        "Timing/maintenance_sec": 1.5, "Timing/total_hours": 2.0,
        "Timing/total_days": 2.0 / 24, "Resources/cpu_mem_gb": 2.0,
        "Resources/peak_gpu_mem_gb": 0.0, "Resources/peak_gpu_mem_reserved_gb": 0.0,
    }  # fmt: skip
    assert all(moments["num"] == 1 and moments["std"] == 0 for moments in found.values())


def fields(line):
    return re.findall(r"(?:^|  )([a-z0-9/]+) ", line)


def test_the_line_of_a_tick_keeps_its_order():
    progress = {
        "tick": 3, "kimg": 12.0, "total_seconds": 7200.0, "eta_seconds": 11520.0,
        "sec_per_tick": 20.0, "sec_per_kimg": 5.0, "maintenance_seconds": 1.5, "waiting": 0.003,
        "cpu_mem_gb": 2.0, "gpu_mem_gb": 1.0, "nonfinite_gradients": 0, "augment_p": 0.1,
    }  # fmt: skip
    line = progress_line(progress, {})
    assert "  eta 3h 12m  " in line and "  waiting 0.3%   cpumem 2.00   gpumem 1.00 " in line
    assert fields(line) == [
        "tick", "kimg", "time", "eta", "sec/tick", "sec/kimg", "maintenance", "waiting", "cpumem",
        "gpumem", "scores", "loss", "r1", "augment",
    ]  # fmt: skip


def test_a_run_tells_its_cost(data, tmp_path):
    config = TrainConfig(outdir=str(tmp_path), data=data, kimg=0.06, **SMALL)
    steps = list(train(config))
    found = [i for i, step in enumerate(steps, 1) for x in step.notes if x.startswith("forecast:")]
    assert found == [10]
    assert steps[0].eta_sec is None and steps[-1].eta_sec == 0 and steps[5].eta_sec > 0
    lines = [step.line for step in steps if step.line]
    assert "eta - " in lines[0] and re.search(r"  eta \d+s  ", lines[1])
    folder = steps[-1].folder
    assert (folder / "log.txt").read_text().count("forecast: ") == 1
    records = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    last = records[-1]
    assert last["Progress/kimg"] == {"num": 1, "mean": last["progress"]["kimg"], "std": 0.0}
    assert 0 <= last["progress"]["waiting"] < 1
    # Set-up and maintenance count, not only the steps.
    spent = sum(record["progress"]["sec_per_tick"] for record in records)
    assert last["Timing/total_sec"]["mean"] > spent
    more = dataclasses.replace(config, kimg=0.068, resume="latest")
    resumed = list(train(more))[-1]
    assert resumed.progress["total_seconds"] > last["progress"]["total_seconds"]


def test_the_clock_of_states_of_earlier_versions(data, tmp_path):
    """They have the seconds of the steps alone."""
    config = TrainConfig(outdir=str(tmp_path), data=data, kimg=0.004, **SMALL)
    folder = list(train(config))[-1].folder
    (path,) = state_paths(folder)
    state = torch.load(path, weights_only=True)
    assert state["output"].pop("seconds") > state["counters"]["seconds"] > 0
    state["counters"]["seconds"] = 1000.0
    torch.save(state, path)
    resumed = list(train(dataclasses.replace(config, kimg=0.008, resume="latest")))[-1]
    assert 1000 < resumed.progress["total_seconds"] < 1500


def test_the_status_line_of_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    step = TrainStep(2000, 100_000, 2000, tmp_path, "", eta_sec=11520.0)
    _print(step, first=False, started=time.time() - 100)
    text = capsys.readouterr().err
    assert text.strip() == "2.0 of 100 kimg, 20.0 img/s, eta 3h 12m" and len(text) > 60


@pytest.mark.slow
def test_a_dry_run_estimates_its_cost(data, tmp_path):
    config = TrainConfig(outdir=str(tmp_path), data=data, kimg=1, **{**SMALL, "tick": 0.1})
    assert "estimate" not in describe(config)
    found = json.loads(json.dumps(describe(config, with_estimate=True)))["estimate"]
    assert found["source"] == "measured steps" and found["images_per_sec"] > 0
    assert found["days"] == pytest.approx(found["sec_per_kimg"] / 86400, rel=0.01)
    # Tick 0, then ten of 25 steps, the last of 24: snapshots at 0, 2, … 10.
    assert found["snapshots"] == 6 and found["states"] == 2
    disk = found["snapshots"] * found["snapshot_gb"] + found["states"] * found["state_gb"]
    assert found["disk_gb"] == pytest.approx(disk, rel=0.02)
    assert not list(tmp_path.iterdir())
