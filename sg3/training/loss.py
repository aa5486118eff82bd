"""Losses of a GAN: adversarial, R1, path length (REFERENCE.md §4.1, §4.3, §4.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import relu, softplus

from ops_cuda import filter2d
from sg3.errors import UserError
from sg3.settings import check_settings, documented, setting
from sg3.training.config import TrainConfig

PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
Report = Callable[[str, torch.Tensor], object]
#: Images and labels, or latents and labels.
Pair = tuple[torch.Tensor, torch.Tensor]


@documented
@dataclass(frozen=True)
class LossConfig:
    """Settings of `GANLoss` (REFERENCE.md §4.1).

    `kind` 'stylegan2' is the non-saturating loss with R1. 'rpgan' pairs every generated image
    with a real one and adds R2, the same penalty on generated images ("The GAN is dead; long live
    the GAN!", arXiv 2501.05441). 'hinge' is the hinge loss ("Geometric GAN", arXiv 1705.02894).
    """

    kind: str = setting("stylegan2", "Adversarial loss.", choices=("stylegan2", "rpgan", "hinge"))
    r1_gamma: float = setting(10, "R1 (and R2) weight.", min=0)
    r1_gamma_end: float | None = setting(
        None, "Weight that r1_gamma approaches.", above=0, unset="r1_gamma"
    )
    r1_gamma_kimg: float = setting(200, "Length of the approach in kimg.", above=0)
    style_mixing_prob: float = setting(0, "Style mixing probability.", min=0, max=1)
    pl_weight: float = setting(0, "Path length regularization weight.", min=0)
    pl_batch_shrink: int = setting(2, "Batch size divisor for path length.", min=1)
    pl_decay: float = setting(0.01, "Decay of the mean path length.", min=0, max=1)
    blur_init_sigma: float = setting(0, "Initial blur of D's inputs in pixels.", min=0)
    blur_fade_kimg: float = setting(0, "Length over which the blur fades to 0, in kimg.", min=0)

    def __post_init__(self) -> None:
        check_settings(self)


def loss_config(config: TrainConfig) -> LossConfig:
    """Return the loss settings of a resolved `config`."""
    # The layers of a projected D are bounded by spectral norm instead.
    gamma = 0 if config.discriminator == "projected" else config.gamma
    settings: dict[str, Any] = {
        "kind": config.loss, "r1_gamma": gamma, "r1_gamma_end": config.gamma_end,
        "r1_gamma_kimg": config.gamma_kimg,
    }  # fmt: skip
    settings |= {name: getattr(config, name) for name in ("style_mixing_prob", "pl_weight")}
    if config.blur_percent is not None:
        fade = config.kimg * config.blur_percent / 100
        settings |= {"blur_init_sigma": 10, "blur_fade_kimg": fade}
    elif config.cfg == "stylegan3-r" and not config.from_network:
        settings |= {"blur_init_sigma": 10, "blur_fade_kimg": config.batch * 200 / 32}
    return LossConfig(**settings)


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur `images` `[N, C, H, W]` with taps `2^(−(i/σ)²)`, i = −⌊3σ⌋…⌊3σ⌋, at the same size."""
    size = int(np.floor(3 * sigma))
    if size < 1:
        return images
    taps = torch.arange(-size, size + 1, device=images.device, dtype=torch.float32)
    # Base 2, not e: sigma is the distance at which a tap has half the height.
    taps = taps.div(sigma).square().neg().exp2()
    return filter2d(images, taps / taps.sum())


class GANLoss:
    """Gradients of every training phase, accumulated into `.grad`.

    The caller sets `requires_grad` on the parameters of the network that a phase trains.

    Args:
        G: generator.
        D: discriminator.
        config: weights and kind of the loss.
        augment: augmentation of everything that D sees, or None.
        report: receives statistics as `report(name, values)`.
    """

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module,
        config: LossConfig | None = None,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
        report: Report | None = None,
    ):
        self.G: Any = G  # StyleGAN2 and 3 share an interface, not a base class
        self.D: Any = D
        self.augment = augment
        self.config = config or LossConfig()
        self.report = report or (lambda name, values: None)
        device = next(G.parameters()).device
        self.pl_mean = torch.zeros([], device=device)
        self._gamma = self.config.r1_gamma

    def blur_sigma(self, cur_nimg: int) -> float:
        """Blur of D's inputs in pixels after `cur_nimg` images; it fades linearly to 0."""
        fade = self.config.blur_fade_kimg * 1000
        return self.config.blur_init_sigma * max(1 - cur_nimg / fade, 0) if fade > 0 else 0.0

    def gamma(self, cur_nimg: int) -> float:
        """Weight of R1 and R2 after `cur_nimg` images, between `r1_gamma` and `r1_gamma_end`."""
        start, end = self.config.r1_gamma, self.config.r1_gamma_end
        if not start or end in (None, start):
            return start
        assert end is not None  # see above
        return start * (end / start) ** min(cur_nimg / (self.config.r1_gamma_kimg * 1000), 1)

    def run_mapping(
        self, z: torch.Tensor, c: torch.Tensor, update_emas: bool = False
    ) -> torch.Tensor:
        """Return `ws` `[N, num_ws, w_dim]`, with style mixing."""
        ws = self.G.mapping(z, c, update_emas=update_emas)
        if self.config.style_mixing_prob > 0:
            # One cutoff for all images of the pass.
            cutoff = int(torch.randint(1, ws.shape[1], []))
            if float(torch.rand([])) < self.config.style_mixing_prob:
                other = self.G.mapping(torch.randn_like(z), c, update_emas=False)
                ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return ws

    def run_G(self, z: torch.Tensor, c: torch.Tensor, update_emas: bool = False) -> Pair:
        """Return images and their `ws` `[N, num_ws, w_dim]`, with style mixing."""
        ws = self.run_mapping(z, c, update_emas)
        return self.G.synthesis(ws, update_emas=update_emas), ws

    def run_D(self, images: torch.Tensor, c: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return logits of the blurred, augmented `images`."""
        # Blur, then augment (REFERENCE.md §4.5). R1 looks through both to the raw image (§4.1).
        images = gaussian_blur(images, sigma)
        if self.augment is not None:
            images = self.augment(images)
        return self.D(images, c)

    def _report_scores(
        self, kind: str, logits: torch.Tensor, other: torch.Tensor | float = 0.0
    ) -> None:
        """Report logits and their signs, relative to `other` where only differences matter."""
        self.report(f"Loss/scores/{kind}", logits)
        self.report(f"Loss/signs/{kind}", (logits - other).detach().sign())

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
        """Add the gradients of one phase, times `gain`, to `.grad`.

        Args:
            phase: one of `PHASES`.
            real: real images `[N, C, H, W]` in [−1, 1].
            real_c: their labels `[N, c_dim]`.
            gen_z: latents `[N, z_dim]`.
            gen_c: labels of the generated images `[N, c_dim]`.
            gain: factor of the loss, such as the interval of a lazy regularizer.
            cur_nimg: images shown so far, for the blur.

        Raises ValueError for an unknown phase.
        """
        if phase not in PHASES:
            raise UserError(f"phase: got {phase!r}, expected one of {', '.join(PHASES)}")
        sigma = self.blur_sigma(cur_nimg)
        self._gamma = self.gamma(cur_nimg)
        main = phase.endswith(("main", "both"))
        regularize = phase.endswith(("reg", "both"))
        reals, fakes = (real, real_c), (gen_z, gen_c)
        if phase[0] == "G":
            if main:
                self.generator_main(reals, fakes, gain, sigma)
            if regularize and self.config.pl_weight > 0:
                self._path_length(*fakes, gain)
            return
        penalize = regularize and self.config.r1_gamma > 0
        if main or penalize:
            if self.config.kind == "rpgan":
                self._relativistic_discriminator(reals, fakes, gain, sigma, main, penalize)
            else:
                self._discriminator(reals, fakes, gain, sigma, main, penalize)

    def generator_main(self, reals: Pair, fakes: Pair, gain: float, sigma: float) -> None:
        """Adversarial loss of G; `reals` are images and labels, `fakes` latents and labels."""
        images, _ = self.run_G(*fakes)
        logits = self.run_D(images, fakes[1], sigma)
        real_logits: torch.Tensor | float = 0.0
        if self.config.kind == "rpgan":
            with torch.no_grad():  # the real images do not depend on G
                real_logits = self.run_D(*reals, sigma)
        self._report_scores("fake", logits, real_logits)
        logits = logits - real_logits
        loss = -logits if self.config.kind == "hinge" else softplus(-logits)
        self.report("Loss/G/loss", loss)
        loss.mean().mul(gain).backward()

    def _path_length(self, z: torch.Tensor, c: torch.Tensor, gain: float) -> None:
        """Path length regularization: equal steps in W make equal steps in the image (SG2 §3.2)."""
        count = max(z.shape[0] // self.config.pl_batch_shrink, 1)
        ws = self.run_mapping(z[:count], c[:count])
        if not ws.requires_grad:  # the mapping network is frozen
            ws = ws.detach().requires_grad_(True)
        # `forward`, which is not compiled: torch.compile has no second derivatives.
        images = self.G.synthesis.forward(ws)
        # 1/√(H·W) keeps the length independent of the number of pixels.
        noise = torch.randn_like(images) / (images.shape[2] * images.shape[3]) ** 0.5
        # The product of the Jacobian and the noise, without the Jacobian (SG2 Eq. 4).
        (grads,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
        lengths = grads.square().sum(2).mean(1).sqrt()
        # The mean includes this batch, and its gradient flows: only the stored copy is detached.
        mean = self.pl_mean.lerp(lengths.mean(), self.config.pl_decay)
        self.pl_mean.copy_(mean.detach())
        penalty = (lengths - mean).square()
        loss = penalty * self.config.pl_weight
        self.report("Loss/pl_penalty", penalty)
        self.report("Loss/G/reg", loss)
        loss.mean().mul(gain).backward()

    def _fake_images(self, fakes: Pair, update_emas: bool) -> torch.Tensor:
        with torch.no_grad():  # D's gradients stop at its input, so G needs no graph
            return self.run_G(*fakes, update_emas=update_emas)[0]

    def _discriminator(
        self, reals: Pair, fakes: Pair, gain: float, sigma: float, main: bool, penalize: bool
    ) -> None:
        """Non-saturating or hinge loss, and R1.

        Two backward passes, generated images first, so that only one graph is in memory at a
        time; the real term and R1 share one forward pass when both are due.
        """
        if main:
            logits = self.run_D(self._fake_images(fakes, update_emas=True), fakes[1], sigma)
            self._report_scores("fake", logits)
            fake_loss = self._shortfall(-logits)
            fake_loss.mean().mul(gain).backward()
        images, logits = self._logits_of_leaves(reals, sigma, penalize)
        self._report_scores("real", logits)
        loss = torch.zeros_like(logits)
        if main:
            loss = self._shortfall(logits)
            self.report("Loss/D/loss", fake_loss.detach() + loss.detach())
        if penalize:
            reg = self._penalty("r1", logits, images)
            self.report("Loss/D/reg", reg)
            # Logits are [N, 1]: added to [N] directly, they would broadcast to [N, N].
            loss = loss.reshape(reg.shape[0], -1).mean(1) + reg
        loss.mean().mul(gain).backward()

    def _shortfall(self, margin: torch.Tensor) -> torch.Tensor:
        """Return D's loss where its logit has the right sign by `margin`."""
        return relu(1 - margin) if self.config.kind == "hinge" else softplus(-margin)

    def _relativistic_discriminator(
        self, reals: Pair, fakes: Pair, gain: float, sigma: float, main: bool, penalize: bool
    ) -> None:
        """Relativistic pairing loss with R1 and R2, in one backward pass if both are due."""
        generated = (self._fake_images(fakes, update_emas=main), fakes[1])
        if not main:
            self._both_penalties(reals, generated, gain, sigma)
            return
        real_images, real_logits = self._logits_of_leaves(reals, sigma, penalize)
        fake_images, fake_logits = self._logits_of_leaves(generated, sigma, penalize)
        self._report_scores("real", real_logits, fake_logits)
        self._report_scores("fake", fake_logits, real_logits)
        loss = softplus(fake_logits - real_logits)
        self.report("Loss/D/loss", loss)
        if penalize:
            reg = self._penalty("r1", real_logits, real_images)
            reg = reg + self._penalty("r2", fake_logits, fake_images)
            self.report("Loss/D/reg", reg)
            loss = loss.reshape(reg.shape[0], -1).mean(1) + reg
        loss.mean().mul(gain).backward()

    def _both_penalties(self, reals: Pair, generated: Pair, gain: float, sigma: float) -> None:
        """R1 and R2 alone: a sum, so that only one graph is in memory at a time."""
        logits, regs = [], []
        for name, pair in (("r1", reals), ("r2", generated)):
            images, own = self._logits_of_leaves(pair, sigma, requires_grad=True)
            reg = self._penalty(name, own, images)
            reg.mean().mul(gain).backward()
            logits.append(own.detach())
            regs.append(reg.detach())
        self._report_scores("real", *logits)
        self.report("Loss/D/reg", regs[0] + regs[1])

    def _logits_of_leaves(self, images_and_labels: Pair, sigma: float, requires_grad: bool) -> Pair:
        """Return the images, as leaves if gradients by them are needed, and their logits."""
        images, c = images_and_labels
        images = images.detach().requires_grad_(requires_grad)
        return images, self.run_D(images, c, sigma)

    def _penalty(self, name: str, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return γ/2 times the squared gradient norm at every image (R1, R2)."""
        # One call for all images: only the minibatch statistics mix them.
        (grads,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty = grads.square().sum([1, 2, 3])
        self.report(f"Loss/{name}_penalty", penalty)
        return penalty * (self._gamma / 2)
