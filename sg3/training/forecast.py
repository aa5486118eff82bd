"""What is left of a run: time to its end and disk space, from what this session has measured.

The arithmetic is that of REFERENCE.md §4.9.
"""

from __future__ import annotations

import datetime
import math
import re
import shutil
import statistics
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from sg3.training.config import TrainConfig
from sg3.training.run_folder import state_paths

MIN_STEPS = 10  # before the forecast; the first one, which compiles and allocates, is left out
MAX_INTERVAL = 16  # waits longer only for regularization phases that come about this often
WINDOW_STEPS = 256  # recent speed: a multiple of the usual intervals
WINDOW_TICKS = 8
GB = 1e9
SNAPSHOT_FILE = re.compile(r"(?:network-|ema-|fakes)(\d.*)\.(?:safetensors|png)")


@dataclass(frozen=True)
class Remaining:
    """Steps, ends of ticks, and snapshots that a run has before it."""

    steps: int
    ticks: int
    snapshots: int


def remaining(
    config: TrainConfig, nimg: int = 0, tick: int = 0, tick_start_nimg: int = 0
) -> Remaining:
    """Return what is left of a run, by default all of it.

    Args:
        config: options of the run.
        nimg: images shown so far.
        tick: number of the current tick, whose end is still to come.
        tick_start_nimg: images shown when it began.
    """
    steps = max(math.ceil((config.kimg * 1000 - nimg) / config.batch), 0)
    length = max(math.ceil(config.tick * 1000 / config.batch), 1)
    passed = (nimg - tick_start_nimg) // config.batch
    to_first_end = max((1 if tick == 0 else length) - passed, 0)  # tick 0 is a single step
    ticks = 1 + math.ceil(max(steps - to_first_end, 0) / length)
    last = tick + ticks - 1
    snapshots = last // config.snap - (tick - 1) // config.snap
    # The last tick has one whatever its number.
    return Remaining(steps, ticks, snapshots + (last % config.snap != 0))


class Clock:
    """Seconds since the set-up of a run began, earlier sessions included."""

    def __init__(self) -> None:
        self._started, self._earlier = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._earlier + time.perf_counter() - self._started

    def add_earlier(self, seconds: float) -> None:
        """Add the seconds of earlier sessions."""
        self._earlier = seconds


class Pace:
    """Recent speed of a session: steps, and the work between them at the ends of ticks.

    Attributes:
        maintenance_sec: seconds between the last tick's end and the next step.
    """

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._num_steps = 0
        # A snapshot's metrics take equally long every time, but for the first: the newest counts.
        self._snapshots: deque[float] = deque(maxlen=1)
        self._ticks: deque[float] = deque(maxlen=WINDOW_TICKS)
        self.maintenance_sec = 0.0

    def add_step(self, seconds: float) -> None:
        """Count a step; the first one of a session is left out."""
        self._num_steps += 1
        if self._num_steps > 1:
            self._steps.append(seconds)

    def add_maintenance(self, seconds: float, with_snapshot: bool) -> None:
        """Count the work at the end of a tick."""
        self.maintenance_sec = seconds
        (self._snapshots if with_snapshot else self._ticks).append(seconds)

    @property
    def step_sec(self) -> float | None:
        """Recent seconds per step; None before the second step."""
        return statistics.fmean(self._steps) if self._steps else None

    def forecast_due(self, intervals: list[int]) -> bool:
        """Whether this was the step after which the forecast is made.

        Args:
            intervals: steps between the updates of every phase. The mean over as many steps as the
                longest one has every phase in its right share.
        """
        longest = max((n for n in intervals if n <= MAX_INTERVAL), default=1)
        return self._num_steps == max(MIN_STEPS, longest + 1)

    def eta_sec(self, left: Remaining) -> float | None:
        """Return the seconds to the end, maintenance included; None before the second step."""
        if self.step_sec is None:
            return None
        tick = statistics.fmean(self._ticks) if self._ticks else 0.0
        snapshot = self._snapshots[0] if self._snapshots else tick
        return (
            left.steps * self.step_sec
            + left.snapshots * snapshot
            + (left.ticks - left.snapshots) * tick
        )


@dataclass(frozen=True)
class DiskUse:
    """Bytes of a run's folder at the end of the run.

    Attributes:
        snapshots: number still to come.
        snapshot_bytes: size of one: networks and image grid.
        present_bytes: size of those that are there.
        states: number of training states that are kept.
        state_bytes: size of one.
    """

    snapshots: int
    snapshot_bytes: int
    present_bytes: int
    states: int
    state_bytes: int

    @property
    def total_bytes(self) -> int:
        """Size of all snapshots and states at the end of the run."""
        to_come = self.snapshots * self.snapshot_bytes
        return self.present_bytes + to_come + self.states * self.state_bytes


def disk_use(folder: Path, snapshots: int, keep_states: int) -> DiskUse:
    """Return the disk space of the run in `folder`, judged by its newest snapshot and state.

    Args:
        folder: the run's folder.
        snapshots: number of snapshots still to come.
        keep_states: number of training states that are kept.
    """
    sizes: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        if found := SNAPSHOT_FILE.fullmatch(path.name):
            sizes[found[1]] = sizes.get(found[1], 0) + path.stat().st_size
    states = state_paths(folder)
    return DiskUse(
        snapshots=snapshots,
        snapshot_bytes=sizes[max(sizes)] if sizes else 0,
        present_bytes=sum(sizes.values()),
        states=keep_states,
        state_bytes=states[-1].stat().st_size if states else 0,
    )


def forecast_line(
    config: TrainConfig, step_sec: float, eta_sec: float, disk: DiskUse, folder: Path
) -> str:
    """Return the line about speed, end and disk space of a run."""
    used = disk.present_bytes + disk.states * disk.state_bytes
    text = (
        f"forecast: {config.batch / step_sec:.3g} images/s, {config.kimg:g} kimg reached in "
        f"{format_duration(eta_sec)}, on {end_date(eta_sec)}; disk: {disk.snapshots} more "
        f"snapshots of {_gb(disk.snapshot_bytes)}, {disk.states} states of "
        f"{_gb(disk.state_bytes)}, {_gb(disk.total_bytes)} in total"
    )
    free = shutil.disk_usage(folder).free
    if free < disk.total_bytes - used:
        text += f", but only {_gb(free)} are free: raise `snap`, or make room"
    return text


def end_date(seconds: float) -> str:
    """Return the local date and minute in `seconds` from now."""
    try:
        end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return "a day beyond the calendar"
    return end.strftime("%Y-%m-%d %H:%M")


def format_duration(seconds: float | None) -> str:
    """Format a duration by its two largest units: 2d 03h, 3h 12m, 5m 10s, 4s; None as "-"."""
    if seconds is None:
        return "-"
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02d}m"
    return f"{s // 86400}d {s // 3600 % 24:02d}h"


def _gb(size: int) -> str:
    """Format bytes in GB (10⁹ bytes), small ones in MB, with three digits."""
    return f"{size / GB:.3g} GB" if size > GB / 100 else f"{size / GB * 1000:.3g} MB"
