"""Several encoders that act as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange

from guidance.encoders.base import Encoder


class EnsembleEncoder:
    """Concatenates the embeddings of its members, each scaled by the root of its weight.

    The cosine of two concatenations is then the weighted mean of the members' cosines, so losses
    on embeddings work unchanged.

    Args:
        members: the encoders.
        weights: one per member; equal by default.
        shares_views: let `encode_views` split many views among the members instead of showing all
            views to every member.

    Raises ValueError unless there is one positive weight per encoder.
    """

    def __init__(
        self,
        members: Sequence[Encoder],
        weights: Sequence[float] | None = None,
        shares_views: bool = False,
    ):
        weights = list(weights) if weights is not None else [1.0] * len(members)
        if not members or len(weights) != len(members) or min(weights) <= 0:
            raise ValueError(
                f"weights: got {weights} for {len(members)} encoders, expected one positive weight "
                "per encoder"
            )
        total = sum(weights)
        self.members, self.shares_views = tuple(members), shares_views
        self.scales = tuple((weight / total) ** 0.5 for weight in weights)
        self.name = ",".join(member.name for member in members)
        # Views are made for the largest; members with smaller inputs shrink them.
        self.input_size_px = max(member.input_size_px for member in members)
        self.embed_dim = sum(member.embed_dim for member in members)
        # Each member normalizes its own input; these are the first member's values.
        self.mean, self.std = members[0].mean, members[0].std

    def encode_images(self, img: torch.Tensor) -> torch.Tensor:
        """Embed `img` `[N, 3, H, W]` in [−1, 1]: `[N, embed_dim]` of unit norm."""
        return self._join([member.encode_images(img) for member in self.members])

    def encode_views(self, views: torch.Tensor) -> torch.Tensor:
        """Embed V views of each of B images, `[B, V, 3, H, W]`: `[B, R, embed_dim]` of unit norm.

        R = V. With `shares_views` and at least two views per member, R = V / members: each row
        then joins the embeddings of a different view by each member.
        """
        count = len(self.members)
        # Saves steering half of the encoders' work, with as good results (docs/LOG.md).
        split = self.shares_views and views.shape[1] >= 2 * count and views.shape[1] % count == 0
        parts = [views[:, i::count] for i in range(count)] if split else [views] * count
        rows = [
            member.encode_images(rearrange(part, "b v c h w -> (b v) c h w"))
            for member, part in zip(self.members, parts, strict=True)
        ]
        return rearrange(self._join(rows), "(b v) d -> b v d", b=len(views))

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Embed N texts: `[N, embed_dim]` of unit norm."""
        return self._join([member.encode_texts(texts) for member in self.members])

    def unknown_words(self, text: str) -> list[str]:
        """Words that no member knows; members without a vocabulary know all words."""
        unknown: list[list[str]] = [
            getattr(member, "unknown_words", lambda _: [])(text) for member in self.members
        ]
        return [word for word in unknown[0] if all(word in other for other in unknown)]

    def _join(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([e * s for e, s in zip(embeddings, self.scales, strict=True)], dim=1)
