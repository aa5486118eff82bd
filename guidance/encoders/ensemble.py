"""Several encoders that act as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from guidance.encoders.base import Encoder


class EnsembleEncoder:
    """Concatenated embeddings, each scaled by the root of its share of the weights.

    The cosine of two concatenations is then exactly the weighted mean of the members' cosines,
    so every loss on embeddings works unchanged. With `shares_views`, `encode_views` shows each
    member its share of many views, not all of them. Raises ValueError for unusable weights.
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
                f"ensemble: got {len(members)} encoders with weights {weights},"
                " expected one positive weight per encoder"
            )
        total = sum(weights)
        self.members, self.shares_views = tuple(members), shares_views
        self.scales = tuple((weight / total) ** 0.5 for weight in weights)
        self.name = ",".join(member.name for member in members)
        self.input_size_px = max(member.input_size_px for member in members)
        self.embed_dim = sum(member.embed_dim for member in members)
        # Members normalise for themselves; these describe the first.
        self.mean, self.std = members[0].mean, members[0].std

    def encode_images(self, img: torch.Tensor) -> torch.Tensor:
        """`img` `[N, 3, H, W]` in [−1, 1] → `[N, embed_dim]` of unit norm."""
        return self._join([member.encode_images(img) for member in self.members])

    def encode_views(self, views: torch.Tensor) -> torch.Tensor:
        """`[B, V, 3, H, W]`, V views of each of B pictures → `[B, R, embed_dim]` of unit norm.

        R = V, or with `shares_views`, from two views per member on, V / members: each row then
        joins what every member makes of a view of its own.
        """
        count = len(self.members)
        share = self.shares_views and views.shape[1] >= 2 * count and views.shape[1] % count == 0
        shares = [views[:, i::count] for i in range(count)] if share else [views] * count
        rows = [
            member.encode_images(part.flatten(0, 1))
            for member, part in zip(self.members, shares, strict=True)
        ]
        return self._join(rows).unflatten(0, shares[0].shape[:2])

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """N texts → `[N, embed_dim]` of unit norm."""
        return self._join([member.encode_texts(texts) for member in self.members])

    def unknown_words(self, text: str) -> list[str]:
        """Words that no member knows; members that read any text know them all."""
        lists = [getattr(m, "unknown_words", lambda _: [])(text) for m in self.members]
        return [word for word in lists[0] if all(word in other for other in lists)]

    def _join(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([e * s for e, s in zip(embeddings, self.scales, strict=True)], dim=1)
