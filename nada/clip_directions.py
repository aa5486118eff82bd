"""Where a text, or a few pictures, want features to go (NADA Eq. 2; REFERENCE.md §8.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from guidance.encoders import Encoder, EnsembleEncoder
from guidance.templates import PARTS, filled


def members_of(encoder: Encoder) -> list[tuple[Encoder, float]]:
    """The encoders that act, each with its share of the weight; shares add up to 1."""
    if isinstance(encoder, EnsembleEncoder):
        pairs = zip(encoder.members, encoder.scales, strict=True)
        return [(member, scale**2) for member, scale in pairs]
    return [(encoder, 1.0)]


@dataclass(frozen=True)
class Target:
    """What one encoder is asked for; embeddings have unit norm unless said otherwise.

    `direction` `[D]` unit norm; `text_norm` the length of the difference before normalising;
    `source`, `target` `[D]`; `parts_source`, `parts` `[P, D]`, the source's part sentences and the
    unit directions from them, for the patch term (None when the target is pictures).
    """

    direction: torch.Tensor
    text_norm: float
    source: torch.Tensor
    target: torch.Tensor
    parts_source: torch.Tensor | None = None
    parts: torch.Tensor | None = None


@torch.no_grad()
def text_target(encoder: Encoder, source: str, target: str, templates: Sequence[str]) -> Target:
    """From `source` to `target`, averaged over `templates`. Raises ValueError if they are equal
    to the encoder."""
    before = encoder.encode_texts(filled(templates, source))
    after = encoder.encode_texts(filled(templates, target))
    parts_source = encoder.encode_texts(filled(PARTS, source))
    parts = F.normalize(encoder.encode_texts(filled(PARTS, target)) - parts_source, dim=1)
    difference = (after - before).mean(dim=0)
    if difference.norm() < 1e-6:
        raise ValueError(
            f"target: {encoder.name} sees no difference between {source!r} and {target!r}; "
            "use other words, or --target-images"
        )
    return Target(
        direction=F.normalize(difference, dim=0),
        text_norm=float(difference.norm()),
        source=F.normalize(before.mean(dim=0), dim=0),
        target=F.normalize(after.mean(dim=0), dim=0),
        parts_source=parts_source,
        parts=parts,
    )


@torch.no_grad()
def image_target(encoder: Encoder, before: torch.Tensor, after: torch.Tensor) -> Target:
    """From the generator's pictures `before` `[N, 3, H, W]` to pictures `after` `[M, 3, h, w]`."""
    old = encoder.encode_images(before).mean(dim=0)
    new = encoder.encode_images(after).mean(dim=0)
    difference = new - old
    return Target(
        direction=F.normalize(difference, dim=0),
        text_norm=float(difference.norm()),
        source=F.normalize(old, dim=0),
        target=F.normalize(new, dim=0),
    )
