"""The losses of StyleGAN2 and StyleGAN3: adversarial, R1, path length (REFERENCE.md §4.1, §4.3, §4.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from ops_cuda import filter2d

PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
Report = Callable[[str, torch.Tensor], object]


@dataclass(frozen=True)
class LossConfig:
    """Settings of `GANLoss` (REFERENCE.md §4.1); blur fades over kimg.

    `kind` 'stylegan2' is the non-saturating loss with R1. 'rpgan' compares every generated image
    with a real one instead, and adds R2, the same penalty on generated images ("The GAN is dead;
    long live the GAN!", arXiv 2501.05441).
    """

    kind: str = "stylegan2"
    r1_gamma: float = 10
    style_mixing_prob: float = 0
    pl_weight: float = 0
    pl_batch_shrink: int = 2
    pl_decay: float = 0.01
    blur_init_sigma: float = 0
    blur_fade_kimg: float = 0


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """`images` `[N, C, H, W]` blurred with taps `2^(−(i/σ)²)`, i = −⌊3σ⌋..⌊3σ⌋, same size."""
    size = int(np.floor(3 * sigma))
    if size < 1:
        return images
    taps = torch.arange(-size, size + 1, device=images.device, dtype=torch.float32)
    taps = taps.div(sigma).square().neg().exp2()
    return filter2d(images, taps / taps.sum())


class GANLoss:
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
        main = phase.endswith(("main", "both"))
        regularise = phase.endswith(("reg", "both"))
        reals, fakes = (real, real_c), (gen_z, gen_c)
        if phase[0] == "G":
            if main:
                self.generator_main(reals, fakes, gain, sigma)
            if regularise and self.config.pl_weight > 0:
                self._path_length(*fakes, gain)
            return
        penalise = regularise and self.config.r1_gamma > 0
        if main or penalise:
            if self.config.kind == "rpgan":
                self._relativistic_discriminator(reals, fakes, gain, sigma, main, penalise)
            else:
                self._discriminator(reals, fakes, gain, sigma, main, penalise)

    def generator_main(self, reals, fakes, gain, sigma) -> None:
        """What D says of G's images; `reals` are images and labels, `fakes` latents and labels."""
        images, _ = self.run_G(*fakes)
        logits = self.run_D(images, fakes[1], sigma)
        self._report_scores("fake", logits)
        if self.config.kind == "rpgan":
            with torch.no_grad():  # the real images do not depend on G
                real_logits = self.run_D(*reals, sigma)
            logits = logits - real_logits
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

    def _fake_images(self, fakes, update_emas: bool) -> torch.Tensor:
        with torch.no_grad():  # gradients stop at D: the generator's graph is never needed
            return self.run_G(*fakes, update_emas=update_emas)[0]

    def _discriminator(self, reals, fakes, gain, sigma, main: bool, penalise: bool) -> None:
        """Fake term first; the real term and R1 share one forward pass when both are due."""
        if main:
            logits = self.run_D(self._fake_images(fakes, update_emas=True), fakes[1], sigma)
            self._report_scores("fake", logits)
            fake_loss = softplus(logits)
            fake_loss.mean().mul(gain).backward()
        images, logits = self._judge(reals, sigma, penalise)
        self._report_scores("real", logits)
        loss = torch.zeros_like(logits)
        if main:
            loss = softplus(-logits)
            self.report("Loss/D/loss", fake_loss.detach() + loss.detach())
        if penalise:
            reg = self._penalty("r1", logits, images)
            self.report("Loss/D/reg", reg)
            loss = loss.reshape(reg.shape[0], -1).mean(1) + reg
        loss.mean().mul(gain).backward()

    def _relativistic_discriminator(self, reals, fakes, gain, sigma, main, penalise) -> None:
        """Every real image against a generated one, in one backward pass."""
        generated = self._fake_images(fakes, update_emas=main)
        real_images, real_logits = self._judge(reals, sigma, penalise)
        fake_images, fake_logits = self._judge((generated, fakes[1]), sigma, penalise)
        self._report_scores("real", real_logits)
        loss = torch.zeros_like(real_logits)
        if main:
            self._report_scores("fake", fake_logits)
            loss = softplus(fake_logits - real_logits)
            self.report("Loss/D/loss", loss)
        if penalise:
            reg = self._penalty("r1", real_logits, real_images)
            reg = reg + self._penalty("r2", fake_logits, fake_images)
            self.report("Loss/D/reg", reg)
            loss = loss.reshape(reg.shape[0], -1).mean(1) + reg
        loss.mean().mul(gain).backward()

    def _judge(self, images_and_labels, sigma, penalise) -> tuple[torch.Tensor, torch.Tensor]:
        """The images, as leaves if a penalty will be taken on them, and their logits."""
        images, c = images_and_labels
        images = images.detach().requires_grad_(penalise)
        return images, self.run_D(images, c, sigma)

    def _penalty(self, name: str, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """γ/2 times the squared norm of the gradient at every image (R1, R2)."""
        (grads,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty = grads.square().sum([1, 2, 3])
        self.report(f"Loss/{name}_penalty", penalty)
        return penalty * (self.config.r1_gamma / 2)
