"""The losses of StyleGAN2 and StyleGAN3: non-saturating, R1, path length (FACTS 4.1, 4.3, 4.5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from ops_cuda import filter2d
from sg3.training.config import LossConfig

PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
Report = Callable[[str, torch.Tensor], object]


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """`images` `[N, C, H, W]` blurred with taps `2^(−(i/σ)²)`, i = −⌊3σ⌋..⌊3σ⌋, same size."""
    size = int(np.floor(3 * sigma))
    if size < 1:
        return images
    taps = torch.arange(-size, size + 1, device=images.device, dtype=torch.float32)
    taps = taps.div(sigma).square().neg().exp2()
    return filter2d(images, taps / taps.sum())


class StyleGAN2Loss:
    """Gradients of every training phase, accumulated into `.grad`.

    `report(name, values)` receives the statistics. The caller decides which network's
    parameters require gradients; the loss only skips work that nobody would need.
    """

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module,
        config: LossConfig | None = None,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
        report: Report | None = None,
    ):
        self.G, self.D, self.augment = G, D, augment
        self.config = config or LossConfig()
        self.report = report or (lambda name, values: None)
        device = next(G.parameters()).device
        self.pl_mean = torch.zeros([], device=device)

    def blur_sigma(self, cur_nimg: int) -> float:
        """Standard deviation of the blur curriculum after `cur_nimg` images."""
        fade = self.config.blur_fade_kimg * 1000
        return self.config.blur_init_sigma * max(1 - cur_nimg / fade, 0) if fade > 0 else 0.0

    def run_G(
        self, z: torch.Tensor, c: torch.Tensor, update_emas: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and the latents `ws` they came from, with style mixing."""
        ws = self.G.mapping(z, c, update_emas=update_emas)
        if self.config.style_mixing_prob > 0:
            cutoff = int(torch.randint(1, ws.shape[1], []))
            if float(torch.rand([])) < self.config.style_mixing_prob:
                other = self.G.mapping(torch.randn_like(z), c, update_emas=False)
                ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return self.G.synthesis(ws, update_emas=update_emas), ws

    def run_D(self, images: torch.Tensor, c: torch.Tensor, sigma: float) -> torch.Tensor:
        """Logits of blurred and augmented images."""
        images = gaussian_blur(images, sigma)
        if self.augment is not None:
            images = self.augment(images)
        return self.D(images, c)

    def _report_scores(self, kind: str, logits: torch.Tensor) -> None:
        self.report(f"Loss/scores/{kind}", logits)
        self.report(f"Loss/signs/{kind}", logits.detach().sign())

    def accumulate_gradients(
        self,
        phase: str,
        real: torch.Tensor,
        real_c: torch.Tensor,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        gain: float,
        cur_nimg: int,
    ) -> None:
        """Add the gradients of `phase` (one of `PHASES`), times `gain`.

        `real` `[N, C, H, W]` in [−1, 1], labels `[N, c_dim]`, `gen_z` `[N, z_dim]`.
        """
        if phase not in PHASES:
            raise ValueError(f"phase: got {phase!r}, expected one of {', '.join(PHASES)}")
        sigma = self.blur_sigma(cur_nimg)
        regularise = phase.endswith(("reg", "both"))
        if phase in ("Gmain", "Gboth"):
            self._generator(gen_z, gen_c, gain, sigma)
        if phase[0] == "G" and regularise and self.config.pl_weight > 0:
            self._path_length(gen_z, gen_c, gain)
        if phase in ("Dmain", "Dboth"):
            self._discriminator_fake(gen_z, gen_c, gain, sigma)
        if phase[0] == "D":
            with_r1 = regularise and self.config.r1_gamma > 0
            if phase != "Dreg" or with_r1:
                self._discriminator_real(real, real_c, gain, sigma, phase != "Dreg", with_r1)

    def _generator(self, z, c, gain, sigma) -> None:
        images, _ = self.run_G(z, c)
        logits = self.run_D(images, c, sigma)
        self._report_scores("fake", logits)
        loss = softplus(-logits)
        self.report("Loss/G/loss", loss)
        loss.mean().mul(gain).backward()

    def _path_length(self, z, c, gain) -> None:
        """Keeps a step in W worth an equal step in the image (SG2 Sec. 3.2)."""
        count = max(z.shape[0] // self.config.pl_batch_shrink, 1)
        images, ws = self.run_G(z[:count], c[:count])
        noise = torch.randn_like(images) / (images.shape[2] * images.shape[3]) ** 0.5
        (grads,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
        lengths = grads.square().sum(2).mean(1).sqrt()
        mean = self.pl_mean.lerp(lengths.mean(), self.config.pl_decay)
        self.pl_mean.copy_(mean.detach())
        penalty = (lengths - mean).square()
        loss = penalty * self.config.pl_weight
        self.report("Loss/pl_penalty", penalty)
        self.report("Loss/G/reg", loss)
        loss.mean().mul(gain).backward()

    def _discriminator_fake(self, z, c, gain, sigma) -> None:
        with torch.no_grad():  # gradients stop at D: the generator's graph is never needed
            images, _ = self.run_G(z, c, update_emas=True)
        logits = self.run_D(images, c, sigma)
        self._report_scores("fake", logits)
        loss = softplus(logits)
        self._fake_loss = loss.detach()
        loss.mean().mul(gain).backward()

    def _discriminator_real(self, real, c, gain, sigma, main: bool, with_r1: bool) -> None:
        """Real term and R1 share one forward pass when both are due."""
        real = real.detach().requires_grad_(with_r1)
        logits = self.run_D(real, c, sigma)
        self._report_scores("real", logits)
        loss = torch.zeros_like(logits)
        if main:
            loss = softplus(-logits)
            self.report("Loss/D/loss", self._fake_loss + loss.detach())
        if with_r1:
            (grads,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            penalty = grads.square().sum([1, 2, 3])
            reg = penalty * (self.config.r1_gamma / 2)
            self.report("Loss/r1_penalty", penalty)
            self.report("Loss/D/reg", reg)
            loss = loss.reshape(reg.shape[0], -1).mean(1) + reg
        loss.mean().mul(gain).backward()
