"""How strongly to augment: the controller of adaptive augmentation (ADA Sec. 3.1; REFERENCE.md §4.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sg3.networks.augment import AugmentPipe


@dataclass(frozen=True)
class AdaConfig:
    """`target`: wanted mean sign of D on real images; `kimg` for p to move by one."""

    target: float = 0.6
    interval: int = 4
    kimg: float = 500


def adjusted_p(p: float, sign_mean: float, config: AdaConfig, batch: int) -> float:
    """p after `interval` batches in which D's sign on real images was `sign_mean` on average."""
    direction = (sign_mean > config.target) - (sign_mean < config.target)
    return max(p + direction * batch * config.interval / (config.kimg * 1000), 0.0)


class AdaController:
    """Watches the signs of D and moves `pipe.p`."""

    def __init__(self, pipe: AugmentPipe, config: AdaConfig):
        self.pipe, self.config = pipe, config
        self._moments = torch.zeros([2], dtype=torch.float64, device=pipe.p.device)

    def observe(self, signs: torch.Tensor) -> None:
        """Count the signs of D's logits on real images."""
        signs = signs.detach().to(torch.float64)
        self._moments += torch.stack([torch.ones_like(signs).sum(), signs.sum()])

    def moments(self) -> torch.Tensor:
        """Count and sum of the signs since the last adjustment: `[2]`, float64, a copy."""
        return self._moments.clone()

    def adjust(
        self,
        batch_idx: int,
        batch: int,
        reduce: Callable[[torch.Tensor], object] | None = None,
    ) -> None:
        """After batch number `batch_idx` (from 1): move p if it is time, and count afresh.

        `batch` is that of all processes together; `reduce` adds a tensor up over them in place.
        """
        if batch_idx % self.config.interval:
            return
        moments = self.moments()
        if reduce is not None:
            reduce(moments)
        count, total = moments.tolist()
        self._moments.zero_()
        if count:
            p = adjusted_p(float(self.pipe.p), total / count, self.config, batch)
            self.pipe.p.fill_(p)

    def state(self) -> torch.Tensor:
        """For the training state; `pipe.p` is kept with the networks."""
        return self.moments().cpu()

    def load_state(self, state: torch.Tensor) -> None:
        """Continue from `state()`."""
        self._moments.copy_(state)
