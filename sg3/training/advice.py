"""Training doctor: recognize common failures from a run's statistics and suggest what to try."""

from __future__ import annotations

import copy
import math
import statistics
from typing import Any

import numpy as np
from einops import rearrange

WINNING_TICKS = 6
WINNING_SIGNS = 0.95
WINNING_SEPARATION = 4.0  # of mean scores in standard deviations; signs of ±0.95 are 3.9 apart
LOSS_GROWTH = 1.1  # of G's loss, second half of the ticks in which D wins over the first
HIGH_P = 0.8
# Of the diversity of real images: healthy runs had 0.59 or more, a collapsed one 0.53 (LOG.md).
COLLAPSED_FRACTION, COLLAPSED_GRIDS = 0.55, 2
GROWING = 1.1  # factor between two grids of a generator that is still finding modes
SLOW_FACTOR, SLOW_AFTER_TICKS, SLOW_TICKS = 2.0, 8, 2
MAX_WAITING, WAITING_TICKS = 0.1, 3  # fraction of the time of a tick's steps
MAX_REMEMBERED_TICKS = 100
POOLED_PX = 8

#: Settings are in backticks, which the command line replaces by its options.
ADVICE = {
    "nonfinite": "{count} gradient values were not finite and were replaced; try `precision` fp32, "
    "or smaller `glr` and `dlr` if their number keeps growing",
    "nan": "the discriminator's scores are NaN: `resume` from an earlier network with a smaller "
    "learning rate or `precision` fp32",
    "winning": "the discriminator has been right about nearly all images for {ticks} ticks while "
    "G's loss grew; try a larger `gamma`, `aug` ada, or a smaller `dlr`",
    "high_p": "augmentation has reached p = {p:.2f}: there are few images for this network; more "
    "images, `mirror`, `freezed` or transfer learning with `resume` help more than a longer run",
    "collapse": "generated images are only {fraction:.0%} as diverse as real ones: modes are "
    "missing; {remedy}",
    "slow": "steps take {factor:.1f} times as long as before: check for other programs on this "
    "machine, a full disk, or overheating",
    "waiting": "steps have waited for images {fraction:.0%} of the time for {ticks} ticks: try "
    "more `workers`, `cache` ram if all images fit into memory, or a faster disk",
}

COLLAPSE_REMEDIES = {
    "lost": "return to an earlier network and try a larger `gamma`, or a smaller `glr` and `dlr`",
    "inherited": "the network that `resume` names has lost them; start from another one, or from "
    "random weights",
}


def grid_diversity(images: np.ndarray) -> float:
    """Return the mean distance of uint8 images `[N, C, H, W]` to their nearest neighbour.

    The distance is the root mean square over coarse pixels and coarse edge strengths in [0, 1];
    copies have 0. When a generator loses modes, every image gets a near twin, however many modes
    are left. The spread around the mean image would not show that: with four modes left of many
    it falls only to √¾. Fine texture hardly counts, as noise would hide the loss.
    """
    x = images.astype(np.float32) / 255
    edges = np.abs(np.diff(x, axis=2))[:, :, :, :-1] + np.abs(np.diff(x, axis=3))[:, :, :-1]
    pooled = [rearrange(_pooled(part), "n c h w -> n (c h w)") for part in (x, edges)]
    features = np.concatenate(pooled, axis=1)
    if len(x) < 2:
        return 0.0
    # One image against all at a time keeps memory at [N, F].
    squares = np.stack([np.square(features - one).mean(axis=1) for one in features])
    np.fill_diagonal(squares, np.inf)
    return float(np.sqrt(squares.min(axis=1)).mean())


def _pooled(x: np.ndarray) -> np.ndarray:
    """Return means over `POOLED_PX` × `POOLED_PX` cells of nearly equal size: `[N, C, h, w]`."""
    for axis in (2, 3):
        cells = min(POOLED_PX, x.shape[axis])
        starts = np.linspace(0, x.shape[axis], cells, endpoint=False).astype(int)
        sizes = np.diff([*starts, x.shape[axis]])
        shape = [1, 1, 1, 1]
        shape[axis] = cells
        x = np.add.reduceat(x, starts, axis=axis) / sizes.reshape(shape)
    return x


Finding = tuple[str, dict[str, Any]]
Stats = dict[str, dict[str, Any]]


class TrainingDoctor:
    """Checks every tick; each piece of advice is given once per run."""

    def __init__(self) -> None:
        self._memory: dict[str, Any] = {
            "given": [],
            "g_losses": [],  # while D wins
            "low_diversities": [],  # of the last grids, in a row
            "ever_diverse": False,
            "seconds": [],
            "times_slow": 0,
            "waiting": [],  # fractions of the last ticks, while they are high
        }

    def check(
        self,
        progress: dict[str, Any],
        stats: Stats,
        diversity: float | None = None,
        from_network: bool = False,
    ) -> list[str]:
        """Return new advice, one sentence each.

        Args:
            progress: "progress" of the tick's record in stats.jsonl.
            stats: its statistics by name.
            diversity: `grid_diversity` of G_ema's grid over that of real images, if the tick has
                a grid. Leave out that of an untrained network, whose noise counts for nothing.
            from_network: whether the run started from a trained network.
        """
        findings = (
            self._check_scores(stats),
            self._check_gradients(progress),
            self._check_winning(stats),
            self._check_augmentation(progress),
            self._check_diversity(diversity, from_network),
            self._check_speed(progress),
            self._check_waiting(progress),
        )
        return [text for finding in findings if finding for text in self._first_time(*finding)]

    def _first_time(self, name: str, values: dict[str, Any]) -> list[str]:
        if name in self._memory["given"]:
            return []
        self._memory["given"].append(name)
        return [ADVICE[name].format(**values)]

    def _check_scores(self, stats: Stats) -> Finding | None:
        means = [stats[f"Loss/scores/{kind}"]["mean"] for kind in _scored(stats)]
        return ("nan", {}) if any(mean is None or mean != mean for mean in means) else None

    def _check_gradients(self, progress: dict[str, Any]) -> Finding | None:
        count = progress.get("nonfinite_gradients", 0)
        return ("nonfinite", {"count": count}) if count else None

    def _check_winning(self, stats: Stats) -> Finding | None:
        g_loss = stats.get("Loss/G/loss", {}).get("mean")
        wins = g_loss is not None and _discriminator_wins(stats)
        losses = [*self._memory["g_losses"], g_loss][-MAX_REMEMBERED_TICKS:] if wins else []
        self._memory["g_losses"] = losses
        if len(losses) < WINNING_TICKS:
            return None
        # Halves, not first and last: a flat but noisy loss should not trigger advice.
        half = len(losses) // 2
        grown = statistics.fmean(losses[half:]) > LOSS_GROWTH * statistics.fmean(losses[:half])
        return ("winning", {"ticks": len(losses)}) if grown else None

    def _check_augmentation(self, progress: dict[str, Any]) -> Finding | None:
        p = progress.get("augment_p") or 0.0
        return ("high_p", {"p": p}) if p > HIGH_P else None

    def _check_diversity(self, diversity: float | None, from_network: bool) -> Finding | None:
        if diversity is None:
            return None
        if diversity >= COLLAPSED_FRACTION:
            self._memory |= {"low_diversities": [], "ever_diverse": True}
            return None
        low = [*self._memory["low_diversities"], diversity][-COLLAPSED_GRIDS:]
        self._memory["low_diversities"] = low
        if len(low) < COLLAPSED_GRIDS or low[-1] > GROWING * low[0]:
            return None
        inherited = from_network and not self._memory["ever_diverse"]
        remedy = COLLAPSE_REMEDIES["inherited" if inherited else "lost"]
        return "collapse", {"fraction": diversity, "remedy": remedy}

    def _check_speed(self, progress: dict[str, Any]) -> Finding | None:
        seconds = progress.get("sec_per_kimg")
        if seconds is None:
            return None
        past = self._memory["seconds"]
        factor = seconds / statistics.median(past) if len(past) >= SLOW_AFTER_TICKS else 1.0
        self._memory["seconds"] = [*past, seconds][-MAX_REMEMBERED_TICKS:]
        times = self._memory["times_slow"] + 1 if factor > SLOW_FACTOR else 0
        self._memory["times_slow"] = times
        return ("slow", {"factor": factor}) if times >= SLOW_TICKS else None

    def _check_waiting(self, progress: dict[str, Any]) -> Finding | None:
        fraction = progress.get("waiting") or 0.0
        high = [*self._memory["waiting"], fraction] if fraction > MAX_WAITING else []
        self._memory["waiting"] = high = high[-WAITING_TICKS:]
        if len(high) < WAITING_TICKS:
            return None
        return "waiting", {"fraction": statistics.fmean(high), "ticks": WAITING_TICKS}

    def state(self) -> dict[str, Any]:
        """Return plain values for the training state, so that a resumed run repeats no advice."""
        return copy.deepcopy(self._memory)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state`."""
        self._memory |= copy.deepcopy(state)


def _scored(stats: Stats) -> list[str]:
    return [kind for kind in ("real", "fake") if f"Loss/scores/{kind}" in stats]


def _discriminator_wins(stats: Stats) -> bool:
    """Whether D separates nearly all real images from generated ones.

    Judged by the signs of its scores, or by their distance: a relativistic loss does not determine
    the offset that both have in common.
    """
    if len(_scored(stats)) < 2:
        return False
    signs = [stats.get(f"Loss/signs/{kind}", {}).get("mean") or 0.0 for kind in ("real", "fake")]
    if signs[0] > WINNING_SIGNS and signs[1] < -WINNING_SIGNS:
        return True
    real, fake = (stats[f"Loss/scores/{kind}"] for kind in ("real", "fake"))
    if None in (real["mean"], fake["mean"], real["std"], fake["std"]):
        return False
    spread = math.sqrt((real["std"] ** 2 + fake["std"] ** 2) / 2)
    return bool(real["mean"] - fake["mean"] > WINNING_SEPARATION * spread > 0)
