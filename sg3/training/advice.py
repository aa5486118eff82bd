"""The training doctor: what the running statistics say is going wrong, once, with what to try."""

from __future__ import annotations

import statistics

import numpy as np

WINNING_TICKS = 5
SIGNS_OF_VICTORY = 0.95
HIGH_P = 0.8
COLLAPSED_SHARE = 0.5  # of the best variety so far
SLOW_FACTOR, SLOW_AFTER_TICKS = 2.0, 8
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
    "collapse": "generated images vary {share:.0%} as much as they did: modes are being lost; go "
    "back to an earlier network and try a larger --gamma, or --loss rpgan",
    "slow": "steps take {factor:.1f} times as long as usual: look for another program on this "
    "machine, a full disk, or heat",
}


def grid_diversity(images: np.ndarray) -> float:
    """How much `images` uint8 `[N, C, H, W]` differ from one another; 0 for copies.

    The standard deviation over images of coarse pixels and of coarse edge strength, averaged.
    When a generator loses modes its images come to share layout and colours, so this falls;
    texture that every image has on its own hardly counts.
    """
    x = images.astype(np.float32) / 255
    edges = np.abs(np.diff(x, axis=2))[:, :, :, :-1] + np.abs(np.diff(x, axis=3))[:, :, :-1]
    return float(np.mean([_pooled(part).std(axis=0).mean() for part in (x, edges)]))


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
        self._given: set[str] = set()
        self._g_losses: list[float] = []  # while D wins
        self._best_diversity = 0.0
        self._times_low = 0
        self._seconds: list[float] = []

    def check(self, progress: dict, stats: dict, diversity: float | None = None) -> list[str]:
        """New advice after a tick. `diversity`: `grid_diversity` of a fresh grid, if there is one.

        `progress` and `stats` are a tick's record in stats.jsonl.
        """
        findings = (
            self._check_numbers(progress, stats),
            self._check_victory(stats),
            self._check_augmentation(progress),
            self._check_variety(diversity),
            self._check_speed(progress),
        )
        return [text for finding in findings for text in self._first_time(finding)]

    def _first_time(self, finding: tuple[str, dict] | None) -> list[str]:
        if finding is None or finding[0] in self._given:
            return []
        self._given.add(finding[0])
        return [ADVICE[finding[0]].format(**finding[1])]

    def _check_numbers(self, progress, stats):
        for name in ("Loss/scores/real", "Loss/scores/fake"):
            mean = stats.get(name, {}).get("mean", 0.0)
            if mean is None or mean != mean:
                return "nan", {}
        count = progress.get("nonfinite_gradients", 0)
        return ("nonfinite", {"count": count}) if count else None

    def _check_victory(self, stats):
        def mean(name: str) -> float:
            return stats.get(name, {}).get("mean") or 0.0

        wins = (
            mean("Loss/signs/real") > SIGNS_OF_VICTORY
            and mean("Loss/signs/fake") < -SIGNS_OF_VICTORY
        )
        self._g_losses = [*self._g_losses, mean("Loss/G/loss")] if wins else []
        if len(self._g_losses) >= WINNING_TICKS and self._g_losses[-1] > self._g_losses[0]:
            return "winning", {"ticks": len(self._g_losses)}
        return None

    def _check_augmentation(self, progress):
        p = progress.get("augment_p") or 0.0
        return ("high_p", {"p": p}) if p > HIGH_P else None

    def _check_variety(self, diversity):
        if diversity is None:
            return None
        self._best_diversity = max(self._best_diversity, diversity)
        share = diversity / self._best_diversity if self._best_diversity else 1.0
        self._times_low = self._times_low + 1 if share < COLLAPSED_SHARE else 0
        return ("collapse", {"share": share}) if self._times_low >= 2 else None

    def _check_speed(self, progress):
        seconds = progress.get("sec_per_kimg")
        if seconds is None:
            return None
        usual = statistics.median(self._seconds) if self._seconds else seconds
        enough = len(self._seconds) >= SLOW_AFTER_TICKS
        self._seconds = [*self._seconds[-99:], seconds]
        if enough and seconds > SLOW_FACTOR * usual:
            return "slow", {"factor": seconds / usual}
        return None

    def state(self) -> dict:
        """For the training state, so that a continued run does not repeat itself."""
        return {
            "given": sorted(self._given),
            "g_losses": self._g_losses,
            "best_diversity": self._best_diversity,
            "times_low": self._times_low,
            "seconds": self._seconds,
        }

    def load_state(self, state: dict) -> None:
        """Continue from `state()`."""
        self._given = set(state["given"])
        self._g_losses, self._seconds = list(state["g_losses"]), list(state["seconds"])
        self._best_diversity, self._times_low = state["best_diversity"], state["times_low"]
