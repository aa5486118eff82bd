"""The training doctor: what the running statistics say is going wrong, once, with what to try."""

from __future__ import annotations

import copy
import math
import statistics

import numpy as np

WINNING_TICKS = 6
SIGNS_OF_VICTORY = 0.95
SEPARATION_OF_VICTORY = 4.0  # of mean scores, in standard deviations; signs of ±0.95 give 3.9
GROWTH = 1.1  # of G's loss, from the first half of D's reign to the second
HIGH_P = 0.8
COLLAPSED_SHARE, COLLAPSED_GRIDS = 0.5, 2  # of the best variety so far
SLOW_FACTOR, SLOW_AFTER_TICKS, SLOW_TICKS = 2.0, 8, 2
REMEMBERED_TICKS = 100
POOLED_PX = 8

ADVICE = {
    "nonfinite": "{count} gradient values were not finite and were replaced; try --precision fp32 "
    "or a smaller --glr and --dlr if their number keeps growing",
    "nan": "the discriminator's scores are not numbers any more: go back to an earlier network "
    "with --resume and a smaller learning rate, or --precision fp32",
    "winning": "the discriminator has been right about nearly every image for {ticks} ticks while "
    "G's loss grew; try a larger --gamma, --aug ada, or a smaller --dlr",
    "high_p": "augmentation is at p = {p:.2f}, so the data are few for this network: more images, "
    "--mirror, --freezed or a transfer with --resume will help more than further training",
    "collapse": "generated images differ from their likes only {share:.0%} as much as they did: "
    "modes are being lost; go back to an earlier network and try a larger --gamma, or --loss rpgan",
    "slow": "steps take {factor:.1f} times as long as usual: look for another program on this "
    "machine, a full disk, or heat",
}


def grid_diversity(images: np.ndarray) -> float:
    """How far each of `images` uint8 `[N, C, H, W]` is from the one most like it; 0 for copies.

    Root mean square over features in [0, 1], averaged over the images; the features are coarse
    pixels and coarse edge strengths. When a generator loses modes, every image gets a near twin,
    however many modes are left. The spread around the mean image would not show that: four modes
    that are left of many keep √¾ of it. Texture that every image has on its own hardly counts.
    """
    x = images.astype(np.float32) / 255
    edges = np.abs(np.diff(x, axis=2))[:, :, :, :-1] + np.abs(np.diff(x, axis=3))[:, :, :-1]
    features = np.concatenate([_pooled(part).reshape(len(x), -1) for part in (x, edges)], axis=1)
    if len(x) < 2:
        return 0.0
    # One image against all keeps the memory small: [N, F] each.
    squares = np.stack([np.square(features - one).mean(axis=1) for one in features])
    np.fill_diagonal(squares, np.inf)
    return float(np.sqrt(squares.min(axis=1)).mean())


def _pooled(x: np.ndarray) -> np.ndarray:
    """Means of about `POOLED_PX` × `POOLED_PX` areas: `[N, C, h, w]`."""
    for axis in (2, 3):
        cells = min(POOLED_PX, x.shape[axis])
        starts = np.linspace(0, x.shape[axis], cells, endpoint=False).astype(int)
        sizes = np.diff([*starts, x.shape[axis]])
        shape = [1, 1, 1, 1]
        shape[axis] = cells
        x = np.add.reduceat(x, starts, axis=axis) / sizes.reshape(shape)
    return x


class TrainingDoctor:
    """Looks at every tick; each piece of advice comes once per run."""

    def __init__(self):
        self._memory = {
            "given": [],
            "g_losses": [],  # while D wins
            "best_diversity": 0.0,
            "times_low": 0,
            "seconds": [],
            "times_slow": 0,
        }

    def check(self, progress: dict, stats: dict, grid_diversity: float | None = None) -> list[str]:
        """New advice after a tick: one sentence each.

        `progress` and `stats` are a tick's record in stats.jsonl; `grid_diversity` is that of a
        fresh grid of the averaged generator, where there is one.
        """
        findings = (
            self._check_scores(stats),
            self._check_gradients(progress),
            self._check_victory(stats),
            self._check_augmentation(progress),
            self._check_variety(grid_diversity),
            self._check_speed(progress),
        )
        return [text for finding in findings if finding for text in self._first_time(*finding)]

    def _first_time(self, name: str, values: dict) -> list[str]:
        if name in self._memory["given"]:
            return []
        self._memory["given"].append(name)
        return [ADVICE[name].format(**values)]

    def _check_scores(self, stats):
        means = [stats[f"Loss/scores/{kind}"]["mean"] for kind in _scored(stats)]
        return ("nan", {}) if any(mean is None or mean != mean for mean in means) else None

    def _check_gradients(self, progress):
        count = progress.get("nonfinite_gradients", 0)
        return ("nonfinite", {"count": count}) if count else None

    def _check_victory(self, stats):
        g_loss = stats.get("Loss/G/loss", {}).get("mean")
        wins = g_loss is not None and _discriminator_wins(stats)
        losses = [*self._memory["g_losses"], g_loss][-REMEMBERED_TICKS:] if wins else []
        self._memory["g_losses"] = losses
        if len(losses) < WINNING_TICKS:
            return None
        half = len(losses) // 2
        grown = statistics.fmean(losses[half:]) > GROWTH * statistics.fmean(losses[:half])
        return ("winning", {"ticks": len(losses)}) if grown else None

    def _check_augmentation(self, progress):
        p = progress.get("augment_p") or 0.0
        return ("high_p", {"p": p}) if p > HIGH_P else None

    def _check_variety(self, diversity):
        if diversity is None:
            return None
        best = self._memory["best_diversity"] = max(self._memory["best_diversity"], diversity)
        share = diversity / best if best else 1.0
        low = self._memory["times_low"] + 1 if share < COLLAPSED_SHARE else 0
        self._memory["times_low"] = low
        return ("collapse", {"share": share}) if low >= COLLAPSED_GRIDS else None

    def _check_speed(self, progress):
        seconds = progress.get("sec_per_kimg")
        if seconds is None:
            return None
        past = self._memory["seconds"]
        factor = seconds / statistics.median(past) if len(past) >= SLOW_AFTER_TICKS else 1.0
        self._memory["seconds"] = [*past, seconds][-REMEMBERED_TICKS:]
        times = self._memory["times_slow"] + 1 if factor > SLOW_FACTOR else 0
        self._memory["times_slow"] = times
        return ("slow", {"factor": factor}) if times >= SLOW_TICKS else None

    def state(self) -> dict:
        """Plain values for the training state, so that a continued run does not repeat itself."""
        return copy.deepcopy(self._memory)

    def load_state(self, state: dict) -> None:
        """Continue from `state()`."""
        self._memory |= copy.deepcopy(state)


def _scored(stats: dict) -> list[str]:
    return [kind for kind in ("real", "fake") if f"Loss/scores/{kind}" in stats]


def _discriminator_wins(stats: dict) -> bool:
    """Whether D tells nearly every real image from a generated one.

    By the signs of its scores; or by their distance, as a relativistic loss leaves their common
    offset free.
    """
    if len(_scored(stats)) < 2:
        return False
    signs = [stats.get(f"Loss/signs/{kind}", {}).get("mean") or 0.0 for kind in ("real", "fake")]
    if signs[0] > SIGNS_OF_VICTORY and signs[1] < -SIGNS_OF_VICTORY:
        return True
    real, fake = (stats[f"Loss/scores/{kind}"] for kind in ("real", "fake"))
    if None in (real["mean"], fake["mean"], real["std"], fake["std"]):
        return False
    spread = math.sqrt((real["std"] ** 2 + fake["std"] ** 2) / 2)
    return real["mean"] - fake["mean"] > SEPARATION_OF_VICTORY * spread > 0
