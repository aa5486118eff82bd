"""Early stopping: metrics of an adaptation on fixed latents, and the rule that stops it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from guidance.encoders import Encoder
from nada.clip_directions import Target, members_of
from nada.config import StopRule
from sg3.media.images import as_rgb


@dataclass(frozen=True)
class Check:
    """Metrics of the fixed latents' images after `index` steps.

    Attributes:
        index: Number of steps made.
        agreement: Mean cosine between the change of the features and the target direction.
        length: Mean change along the target direction, in units of the texts' distance.
        diversity: Mean pairwise distance of the features, relative to the source's.
    """

    index: int
    agreement: float
    length: float
    diversity: float


class StopMonitor:
    """Measures `Check`s and applies a `StopRule` to them.

    Args:
        encoder: The encoder, or an ensemble.
        targets: Target of each member of the ensemble.
        before: Images `[N, C, H, W]` of the source for the fixed latents.
        rule: When to stop.
        magnitude: Desired length of the change, see `AdaptConfig.magnitude`.
    """

    def __init__(
        self,
        encoder: Encoder,
        targets: list[Target],
        before: torch.Tensor,
        rule: StopRule,
        magnitude: float | None,
    ):
        self.members, self.targets, self.rule = members_of(encoder), targets, rule
        self.magnitude = magnitude
        self.checks: list[Check] = []
        # The source does not change, so its features are computed once.
        self._before = [self._encode(member, before) for member, _ in self.members]

    @staticmethod
    @torch.no_grad()
    def _encode(member: Encoder, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([member.encode_images(as_rgb(part)) for part in images.split(8)])

    def measure(self, index: int, after: torch.Tensor) -> Check:
        """Measure images `after` `[N, C, H, W]` of the fixed latents and append the check."""
        agreement = length = diversity = 0.0
        for (member, weight), target, old in zip(
            self.members, self.targets, self._before, strict=True
        ):
            new = self._encode(member, after)
            along = (new - old) @ target.direction
            cosine = F.cosine_similarity(new - old, target.direction[None], dim=1)
            agreement += weight * float(cosine.mean())
            length += weight * float(along.mean()) / target.text_norm
            # The floor is for a source whose images are all alike.
            diversity += weight * _spread(new) / max(_spread(old), 1e-12)
        check = Check(index, agreement, length, diversity)
        self.checks.append(check)
        return check

    def reason_to_stop(self) -> str | None:
        """Return why to stop after the latest check, in one sentence; None: continue."""
        rule, checks = self.rule, self.checks
        last = checks[-1]
        if rule.diversity and last.diversity < rule.diversity:
            return (
                f"images have become alike (diversity {last.diversity:.2f}, "
                f"minimum {rule.diversity:g})"
            )
        if rule.length and self.magnitude and last.length >= rule.length * self.magnitude:
            return f"the change has the desired length ({last.length:.2f} text distances)"
        if rule.patience and len(checks) > rule.patience:
            earlier = max(check.agreement for check in checks[: -rule.patience])
            recent = max(check.agreement for check in checks[-rule.patience :])
            if recent < earlier + rule.least:
                return f"no progress for {rule.patience} checks (agreement {recent:.3f})"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {"checks": [asdict(check) for check in self.checks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self.checks = [Check(**check) for check in state["checks"]]


def _spread(features: torch.Tensor) -> float:
    """Mean distance between two of `features` `[N, D]`."""
    return float(torch.pdist(features).mean())
