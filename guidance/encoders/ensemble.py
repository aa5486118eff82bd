"""Several encoders that act as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from guidance.encoders.base import Encoder


class EnsembleEncoder:
    """Concatenated embeddings, each scaled by the root of its share of the weights.

    The cosine of two concatenations is then exactly the weighted mean of the members' cosines,
    so every loss on embeddings works unchanged. Raises ValueError for unusable weights.
    """

    def __init__(self, members: Sequence[Encoder], weights: Sequence[float] | None = None):
        weights = list(weights) if weights is not None else [1.0] * len(members)
        if not members or len(weights) != len(members) or min(weights) <= 0:
            raise ValueError(
                f"ensemble: got {len(members)} encoders with weights {weights},"
                " expected one positive weight per encoder"
            )
        total = sum(weights)
        self.members = tuple(members)
        self.scales = tuple((weight / total) ** 0.5 for weight in weights)
        self.name = ",".join(member.name for member in members)
        self.input_size_px = max(member.input_size_px for member in members)
        self.embed_dim = sum(member.embed_dim for member in members)
        # Members normalise for themselves; these describe the first.
        self.mean, self.std = members[0].mean, members[0].std

    def encode_images(self, img: torch.Tensor) -> torch.Tensor:
        """`img` `[N, 3, H, W]` in [−1, 1] → `[N, embed_dim]` of unit norm."""
        return self._join([member.encode_images(img) for member in self.members])

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """N texts → `[N, embed_dim]` of unit norm."""
        return self._join([member.encode_texts(texts) for member in self.members])

    def unknown_words(self, text: str) -> list[str]:
        """Words that no member knows; members that read any text know them all."""
        lists = [getattr(m, "unknown_words", lambda _: [])(text) for m in self.members]
        return [word for word in lists[0] if all(word in other for other in lists)]

    def _join(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([e * s for e, s in zip(embeddings, self.scales, strict=True)], dim=1)
