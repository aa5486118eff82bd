"""Is it there yet, and has it gone too far: the curves that stop an adaptation."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from guidance.encoders import Encoder
from nada.clip_directions import Target, members_of
from sg3.media.images import as_rgb


@dataclass(frozen=True)
class StopRule:
    """When to end before the last step; 0 switches a test off."""

    #: Relative diversity below which pictures have become alike.
    diversity: float = 0.4
    #: Checks in a row without an agreement better by `least` than before: a plateau.
    patience: int = 6
    least: float = 0.005
    #: Share of the wanted length of the change, where that length is known.
    length: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: got {value}, expected 0 or more")


@dataclass(frozen=True)
class Check:
    """What a fixed set of latents shows after `index` steps.

    `agreement`: mean cosine between change and target direction; `length`: mean change along the
    direction, in units of the texts' difference; `diversity`: mean pairwise distance of features
    relative to the source generator's.
    """

    index: int
    agreement: float
    length: float
    diversity: float


class Watch:
    """Measures `Check`s and knows when to stop."""

    def __init__(
        self,
        encoder: Encoder,
        targets: list[Target],
        before: torch.Tensor,
        rule: StopRule,
        wanted_length: float | None,
    ):
        self.members, self.targets, self.rule = members_of(encoder), targets, rule
        self.wanted_length = wanted_length
        self.checks: list[Check] = []
        self._before = [self._encode(member, before) for member, _ in self.members]

    @staticmethod
    @torch.no_grad()
    def _encode(member: Encoder, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([member.encode_images(as_rgb(part)) for part in images.split(8)])

    def measure(self, index: int, after: torch.Tensor) -> Check:
        """Pictures `after` `[N, C, H, W]` of the latents that `before` showed."""
        agreement = length = diversity = 0.0
        for (member, share), target, old in zip(
            self.members, self.targets, self._before, strict=True
        ):
            new = self._encode(member, after)
            along = (new - old) @ target.direction
            cosine = F.cosine_similarity(new - old, target.direction[None], dim=1)
            agreement += share * float(cosine.mean())
            length += share * float(along.mean()) / target.text_norm
            diversity += share * _spread(new) / max(_spread(old), 1e-12)
        check = Check(index, agreement, length, diversity)
        self.checks.append(check)
        return check

    def reason_to_stop(self) -> str | None:
        """One sentence, or None to go on."""
        rule, checks = self.rule, self.checks
        last = checks[-1]
        if rule.diversity and last.diversity < rule.diversity:
            return (
                f"pictures have become alike (diversity {last.diversity:.2f}, "
                f"floor {rule.diversity:g})"
            )
        if rule.length and self.wanted_length and last.length >= rule.length * self.wanted_length:
            return f"the change is as long as wanted ({last.length:.2f} of the texts' difference)"
        if rule.patience and len(checks) > rule.patience:
            earlier = max(check.agreement for check in checks[: -rule.patience])
            recent = max(check.agreement for check in checks[-rule.patience :])
            if recent < earlier + rule.least:
                return f"no closer to the target for {rule.patience} checks (cosine {recent:.3f})"
        return None

    def state_dict(self) -> dict:
        """For `load_state_dict`."""
        return {"checks": [asdict(check) for check in self.checks]}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`."""
        self.checks = [Check(**check) for check in state["checks"]]


def _spread(features: torch.Tensor) -> float:
    """Mean distance between two of `features` `[N, D]`."""
    return float(torch.pdist(features).mean())
