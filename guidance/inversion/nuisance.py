"""What projection finds beside the latent: a StyleGAN3's input transform, a StyleGAN2's noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from sg3.errors import UserError
from sg3.networks import stylegan3

TRANSFORM = "input.transform"
#: One unit of the optimiser moves the picture by this share of its larger side, or turns it by
#: this angle in radians: about what poses differ by, as a unit of the latent is.
MOVE = 0.05
SMALLEST_NOISE_PX = 8


class Beside:
    """Tensors to optimise, and the buffers of the synthesis network that follow from them.

    Each picture of the batch has its own. The noise begins with what `config.seed` draws, or, if
    not `drawn`, with the network's. Raises UserError for a transform of a network that has none.
    """

    def __init__(self, G: nn.Module, batch: int, config, drawn: bool = True):
        self.device, self.batch = next(G.synthesis.parameters()).device, batch
        self.move = self.before = None
        if config.transform:
            if not isinstance(G, stylegan3.Generator):
                raise UserError("transform: only StyleGAN3 networks have an input transform")
            self.before = G.synthesis.input.transform
            self.move = torch.zeros([batch, 3], device=self.device, requires_grad=True)
        self.noise: dict[str, torch.Tensor] = {}
        if config.noise:
            generator = torch.Generator().manual_seed(config.seed)
            for name, buffer in G.synthesis.named_buffers():
                if name.rpartition(".")[2] == "noise_const":
                    fresh = torch.randn(buffer.shape, generator=generator)
                    noise = (fresh.to(buffer) if drawn else buffer).expand(batch, 1, *buffer.shape)
                    self.noise[name] = noise.clone().requires_grad_(True)

    @property
    def unknown(self) -> list[torch.Tensor]:
        """Leaves for the optimiser."""
        return [*([] if self.move is None else [self.move]), *self.noise.values()]

    def buffers(self) -> dict[str, torch.Tensor]:
        """Buffers by name in the synthesis network, each `[B, ...]`."""
        moved = (
            {} if self.move is None else {TRANSFORM: inverse_moves(self.move * MOVE) @ self.before}
        )
        return {**moved, **self.noise}

    def noise_penalty(self) -> torch.Tensor:
        """How much the noise is a picture: its squared correlation with itself, shifted by a pixel
        along each axis, over a pyramid; `[B]` (SG2 App. D)."""
        total = torch.zeros([self.batch], device=self.device)
        for noise in self.noise.values():
            while True:
                for axis in (2, 3):
                    total = total + (noise * noise.roll(1, axis)).mean(dim=(1, 2, 3)).square()
                if min(noise.shape[2:]) <= SMALLEST_NOISE_PX:
                    break
                noise = F.avg_pool2d(noise, 2)
        return total

    @torch.no_grad()
    def settle_(self) -> None:
        """Give the noise mean 0 and mean square 1 again."""
        for noise in self.noise.values():
            noise -= noise.mean(dim=(1, 2, 3), keepdim=True)
            noise *= noise.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12).rsqrt()


def inverse_moves(move: torch.Tensor) -> torch.Tensor:
    """`move` `[B, 3]`, x and y in larger sides and an angle in radians → matrices `[B, 3, 3]` for
    `synthesis.input.transform`: inverses of rotation, then translation (REFERENCE.md §9.1)."""
    x, y, angle = move.unbind(dim=1)
    cos, sin = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y, zero, zero, one]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def transform_of(buffers: Mapping[str, torch.Tensor]) -> tuple[float, float, float] | None:
    """x, y and degrees of the first picture's transform, as `sg3 generate` takes them."""
    if TRANSFORM not in buffers:
        return None
    m = torch.linalg.inv(buffers[TRANSFORM][0].double().cpu())
    return float(m[0, 2]), float(m[1, 2]), math.degrees(math.atan2(float(m[0, 1]), float(m[0, 0])))
