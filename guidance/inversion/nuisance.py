"""Parameters that projection optimizes in addition to the latent: the input transform of a
StyleGAN3, the noise of a StyleGAN2."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from guidance.inversion.config import ProjectConfig
from guidance.latents import MOVE
from sg3.errors import UserError
from sg3.networks import stylegan3
from sg3.networks.generator import MappedGenerator

TRANSFORM = "input.transform"
SMALLEST_NOISE_PX = 8


class Nuisance:
    """Parameters other than the latent, and the buffers of the synthesis network they determine.

    Each image of the batch has its own.

    Args:
        G: the generator.
        batch: number of images.
        config: settings of the projection.
        drawn: start from noise drawn with the seed; otherwise from that of `G`.

    Raises ValueError for an input transform of a network that has none.
    """

    def __init__(self, G: MappedGenerator, batch: int, config: ProjectConfig, drawn: bool = True):
        self.device, self.batch = next(G.synthesis.parameters()).device, batch
        self.move: torch.Tensor | None = None
        if config.transform:
            if not isinstance(G, stylegan3.Generator):
                raise UserError("transform: only StyleGAN3 networks have an input transform")
            self.before = G.synthesis.get_buffer(TRANSFORM)
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
    def parameters(self) -> list[torch.Tensor]:
        """Leaf tensors for the optimizer."""
        return [*([] if self.move is None else [self.move]), *self.noise.values()]

    def buffers(self) -> dict[str, torch.Tensor]:
        """Buffers of the synthesis network by name, each `[B, ...]`; differentiable."""
        moved = {}
        if self.move is not None:
            moved[TRANSFORM] = inverse_moves(self.move * MOVE) @ self.before
        return {**moved, **self.noise}

    def noise_penalty(self) -> torch.Tensor:
        """Squared autocorrelation of the noise at a shift of one pixel along each axis, summed over
        a pyramid, `[B]` (StyleGAN2 App. D). It is small as long as the noise holds no image."""
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
    def normalize_(self) -> None:
        """Normalize the noise in place to zero mean and unit mean square."""
        for noise in self.noise.values():
            noise -= noise.mean(dim=(1, 2, 3), keepdim=True)
            noise *= noise.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12).rsqrt()


def inverse_moves(move: torch.Tensor) -> torch.Tensor:
    """Matrices `[B, 3, 3]` for `synthesis.input.transform`: inverses of rotation, then translation.

    `move` `[B, 3]`: x and y as fractions of the larger side, and an angle in radians
    (REFERENCE.md §9.1).
    """
    x, y, angle = move.unbind(dim=1)
    cos, sin = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y, zero, zero, one]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def transform_of(buffers: Mapping[str, torch.Tensor]) -> tuple[float, float, float] | None:
    """x, y and degrees of the first image's transform, as the options of `sg3 generate`."""
    if TRANSFORM not in buffers:
        return None
    m = torch.linalg.inv(buffers[TRANSFORM][0].cpu().double())
    return float(m[0, 2]), float(m[1, 2]), math.degrees(math.atan2(float(m[0, 1]), float(m[0, 0])))
