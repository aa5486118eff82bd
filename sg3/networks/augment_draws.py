"""Random numbers of the augmentations, or fixed percentiles (REFERENCE.md §5.3, §5.7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draws:
    """Random numbers for `num` images. With `percentile`, all draws are fixed and all gates open.

    A normal draw at percentile q is `erfinv(2q − 1)`: without the factor √2 of a true quantile, as
    in the official implementation.
    """

    num: int
    device: torch.device
    dtype: torch.dtype
    percentile: float | None = None

    def _fixed(self, shape: tuple[int, ...], value: float) -> torch.Tensor:
        return torch.full([self.num, *shape], value, device=self.device, dtype=self.dtype)

    def _options(self) -> dict:
        return {"device": self.device, "dtype": self.dtype}

    def uniform(self, *shape: int) -> torch.Tensor:
        """Draw from [0, 1): `[N, *shape]`."""
        if self.percentile is not None:
            return self._fixed(shape, self.percentile)
        return torch.rand([self.num, *shape], **self._options())

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw from the standard normal distribution: `[N, *shape]`."""
        if self.percentile is not None:
            return self._fixed(shape, 2 * self.percentile - 1).erfinv()
        return torch.randn([self.num, *shape], **self._options())

    def half_normal(self, *shape: int) -> torch.Tensor:
        """Draw the absolute value of a standard normal: `[N, *shape]`."""
        if self.percentile is not None:
            return self._fixed(shape, self.percentile).erfinv()
        return torch.randn([self.num, *shape], **self._options()).abs()

    def gated(
        self, value: torch.Tensor, identity: float, probability: torch.Tensor
    ) -> torch.Tensor:
        """Return `value` `[N, …]` with the given probability per image, else `identity`."""
        if self.percentile is not None:
            return value
        gate = torch.rand([self.num] + [1] * (value.ndim - 1), **self._options())
        return torch.where(gate < probability, value, torch.full_like(value, identity))
