"""A StyleGAN2 whose constant input can be translated, for `recipes.compare_sg2_sg3`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class MovableConstant(nn.Module):
    """The constant `[C, n, n]` of a StyleGAN2, resampled under a translation `transform` `[3, 3]`.

    The constant counts as samples of a band-limited signal (sinc interpolation), which is zero
    outside.
    """

    def __init__(self, const: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("const", const.detach().clone())
        self.register_buffer("transform", torch.eye(3))

    def forward(self) -> torch.Tensor:
        """Return the translated constant `[C, n, n]`."""
        size = self.const.shape[1]
        index = torch.arange(size, dtype=torch.float32)
        x, y = (
            torch.sinc(index[:, None] + float(self.transform[axis, 2]) * size - index)
            for axis in (0, 1)
        )
        return y @ self.const @ x.T


class MovableStyleGAN2(nn.Module):
    """`G` with a `synthesis.input.transform`, which the equivariance metrics set."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G, self.synthesis = G, self
        self.input = MovableConstant(G.synthesis.b4.const)
        self.z_dim, self.c_dim, self.mapping = G.z_dim, G.c_dim, G.mapping

    def forward(self, ws: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return images `[N, C, H, W]` of `ws` `[N, num_ws, w_dim]`; overwrites G's constant."""
        self.G.synthesis.b4.const.copy_(self.input())
        return self.G.synthesis(ws, **options)
