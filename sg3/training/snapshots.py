"""A run's snapshots: the network file, and the best ones so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sg3.checkpoints.networks import Networks
from sg3.checkpoints.safetensors_io import save
from sg3.files import link_or_copy
from sg3.metrics.registry import higher_is_better
from sg3.training.config import TrainConfig
from sg3.training.trainer import Trainer


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


class BestSnapshots:
    """The best value of each metric so far, and its snapshot as `best-METRIC.safetensors`.

    A metric with several values (precision and recall; a score with its deviation) is judged by
    the first one. `metrics.registry` knows whether higher is better.
    """

    def __init__(self) -> None:
        self._best: dict[str, dict[str, float]] = {}

    def add(self, result: dict[str, Any], kimg: float, snapshot: Path | None) -> str | None:
        """Return a line for the log if `result` (of `evaluate`) is the best of its metric so far.

        `snapshot` is kept then, beside it and under a second name; None: only remember the value.
        """
        metric = result["metric"]
        name, value = next(iter(result["results"].items()))
        before = self._best.get(metric)
        sign = -1 if higher_is_better(metric) else 1
        # Comparisons with NaN are false: it is never the best.
        if not sign * value < (float("inf") if before is None else sign * before["value"]):
            return None
        if snapshot is not None:
            link_or_copy(snapshot, snapshot.with_name(f"best-{metric}.safetensors"))
        self._best[metric] = {"value": value, "kimg": kimg}
        return f"best {name} so far: {value:.4g} at {kimg:g} kimg"

    def state(self) -> dict[str, dict[str, float]]:
        """Return plain values for the training state."""
        return self._best

    def load_state(self, state: dict[str, dict[str, float]]) -> None:
        """Continue from the result of `state`."""
        self._best = {metric: dict(best) for metric, best in state.items()}
