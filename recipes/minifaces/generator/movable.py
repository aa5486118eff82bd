"""A StyleGAN2 whose input can be moved, for recipes/compare_sg2_sg3.py."""

from __future__ import annotations

import torch
from torch import nn


class MovableConstant(nn.Module):
    """The constant `[C, n, n]` of a StyleGAN2 as samples of a signal without frequencies above
    half their rate, read where `transform` `[3, 3]` (translations only) sends the samples."""

    def __init__(self, const: torch.Tensor):
        super().__init__()
        self.register_buffer("const", const.detach().clone())
        self.register_buffer("transform", torch.eye(3))

    def forward(self) -> torch.Tensor:
        size = self.const.shape[1]
        index = torch.arange(size, dtype=torch.float32)
        x, y = (
            torch.sinc(index[:, None] + float(self.transform[axis, 2]) * size - index)
            for axis in (0, 1)
        )
        return y @ self.const @ x.T


class MovableStyleGAN2(nn.Module):
    """`G` with a `synthesis.input.transform`, for the operators of equivariance."""

    def __init__(self, G: nn.Module):
        super().__init__()
        self.G, self.synthesis = G, self
        self.input = MovableConstant(G.synthesis.b4.const)
        self.z_dim, self.c_dim, self.mapping = G.z_dim, G.c_dim, G.mapping

    def forward(self, ws: torch.Tensor, **options) -> torch.Tensor:
        self.G.synthesis.b4.const.copy_(self.input())
        return self.G.synthesis(ws, **options)
