"""Target directions in an encoder's feature space (NADA Eq. 2; REFERENCE.md §8.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from guidance.encoders import Encoder, EnsembleEncoder
from guidance.templates import PARTS, filled
from sg3.errors import UserError


def members_of(encoder: Encoder) -> list[tuple[Encoder, float]]:
    """Return the members of an encoder with their weights, which sum to 1."""
    if isinstance(encoder, EnsembleEncoder):
        pairs = zip(encoder.members, encoder.scales, strict=True)
        # Scales multiply embeddings, so their squares weight inner products.
        return [(member, scale**2) for member, scale in pairs]
    return [(encoder, 1.0)]


@dataclass(frozen=True)
class Target:
    """The target of one encoder. Embeddings have unit norm unless noted.

    Attributes:
        direction: `[D]`, unit direction from source to target.
        text_norm: Length of the difference before normalization.
        source: `[D]`, embedding of the source.
        target: `[D]`, embedding of the target.
        parts_source: `[P, D]`, embeddings of sentences about parts of the source, for the patch
            term; None if the target is given by images.
        parts: `[P, D]`, unit directions from there to the target's parts.
    """

    direction: torch.Tensor
    text_norm: float
    source: torch.Tensor
    target: torch.Tensor
    parts_source: torch.Tensor | None = None
    parts: torch.Tensor | None = None


@torch.no_grad()
def text_target(encoder: Encoder, source: str, target: str, templates: Sequence[str]) -> Target:
    """Return the target from text `source` to text `target`, averaged over prompt templates.

    Raises ValueError if the encoder cannot tell the texts apart.
    """
    before = encoder.encode_texts(filled(templates, source))
    after = encoder.encode_texts(filled(templates, target))
    parts_source = encoder.encode_texts(filled(PARTS, source))
    parts = F.normalize(encoder.encode_texts(filled(PARTS, target)) - parts_source, dim=1)
    # Eq. 2 averages differences; StyleCLIP's `text_difference` normalizes both means first.
    difference = (after - before).mean(dim=0)
    if difference.norm() < 1e-6:
        raise UserError(
            f"target: {encoder.name} sees no difference between {source!r} and {target!r}; "
            "use other words, or `target_images`"
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
    """Return the target from source images `before` `[N, 3, H, W]` to target images `after`
    `[M, 3, h, w]`: the difference of their mean embeddings."""
    old = encoder.encode_images(before).mean(dim=0)
    new = encoder.encode_images(after).mean(dim=0)
    difference = new - old
    return Target(
        direction=F.normalize(difference, dim=0),
        text_norm=float(difference.norm()),
        source=F.normalize(old, dim=0),
        target=F.normalize(new, dim=0),
    )
