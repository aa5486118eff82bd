"""What a run tells others while it trains: its steps, and the hook that loggers use.

class Printer(Callback):
    def on_tick(self, step):
        print(step.nimg, step.stats["Loss/G/loss"]["mean"])

for step in train(config, callbacks=[Printer()]):
    pass
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainStep:
    """What `train` yields after every batch.

    Attributes:
        nimg: images shown so far.
        total_nimg: images at the end of the run.
        session_nimg: images shown since this call of `train`.
        folder: the run's folder.
        start: how this session started, one sentence.
        is_main: False on all ranks but 0, which writes the files.
        eta_sec: seconds to the end of the run, None before the second step.
        line: progress at the end of a tick, otherwise None.
        progress: counters, speed and memory at the end of a tick, otherwise None.
        stats: statistics at the end of a tick, otherwise None.
        notes: lines for the log since the last step. Names of options are in backticks.
        snapshot: network file, if one was written.
        grid: image grid of that snapshot.
        metrics: results of the snapshot's metrics, by name.
        done: whether the run has reached its length.
        stopped: whether the run was stopped by `stop`, after saving its state.
    """

    nimg: int
    total_nimg: int
    session_nimg: int
    folder: Path
    start: str
    is_main: bool = True
    eta_sec: float | None = None
    line: str | None = None
    progress: dict[str, Any] | None = None
    stats: dict[str, dict[str, float]] | None = None
    notes: tuple[str, ...] = ()
    snapshot: Path | None = None
    grid: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    done: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class RunInfo:
    """A run as it begins or resumes.

    Attributes:
        folder: the run's folder.
        options: resolved options, and the arguments of "generator" and "discriminator".
        nimg: images shown in earlier sessions.
        total_nimg: images at the end of the run.
        resumed: whether the run existed before.
        start: how this session started, one sentence.
    """

    folder: Path
    options: dict[str, Any]
    nimg: int
    total_nimg: int
    resumed: bool
    start: str


class Callback:
    """Base class of callbacks of `train`: override what you need.

    All methods are called on rank 0 only, between steps, in this order. They may not draw from
    global random generators if a resumed run shall be bit for bit the same.
    """

    def on_start(self, run: RunInfo) -> None:
        """Called once, before the first step; its ValueErrors end the session."""

    def on_tick(self, step: TrainStep) -> None:
        """Called at the end of every tick; `step` has `line`, `progress` and `stats`."""

    def on_snapshot(self, step: TrainStep) -> None:
        """Called after `on_tick` if a snapshot was written, with `snapshot`, `grid`, `metrics`."""

    def on_end(self, step: TrainStep | None) -> None:
        """Called once at the end of the session, after errors too.

        `step` is the last one, None if there was none; `done` and `stopped` tell how it ended.
        """
