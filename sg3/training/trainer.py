"""Networks, optimisers and counters of a run, and one training step (FACTS 4.2, 4.4)."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sg3.data import BatchLoader, ImageDataset, ShuffleSampler
from sg3.networks import build_network
from sg3.training.config import (
    TrainConfig,
    discriminator_kwargs,
    generator_kwargs,
    loss_config,
)
from sg3.training.ema import ema_beta, update_ema
from sg3.training.loss import StyleGAN2Loss
from sg3.training.stats import Statistics

GRADIENT_LIMIT = 1e5  # what an infinite gradient becomes
G_REG_INTERVAL = 4  # of the path length, StyleGAN2 only


@dataclass(frozen=True)
class Phase:
    """One kind of update: run every `interval` steps on `network`."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    interval: int = 1


def make_optimizer(network: nn.Module, lr: float, reg_interval: int | None) -> torch.optim.Adam:
    """Adam(0, 0.99); with lazy regularisation slowed so that k+1 updates count as k."""
    ratio = 1.0 if reg_interval is None else reg_interval / (reg_interval + 1)
    return torch.optim.Adam(
        network.parameters(), lr=lr * ratio, betas=(0.0, 0.99**ratio), eps=1e-8, fused=True
    )


def make_phases(name: str, network: nn.Module, lr: float, reg_interval: int | None) -> list[Phase]:
    """Phases of one network: main and lazily regularised, or both at once."""
    optimizer = make_optimizer(network, lr, reg_interval)
    if reg_interval is None:
        return [Phase(f"{name}both", network, optimizer)]
    return [
        Phase(f"{name}main", network, optimizer),
        Phase(f"{name}reg", network, optimizer, reg_interval),
    ]


def guard_gradients(network: nn.Module) -> int:
    """Replace NaN by 0 and infinity by ±1e5 in all gradients; how many values that touched."""
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    if not grads or torch.stack(torch._foreach_norm(grads)).sum().isfinite():
        return 0
    bad = 0
    for grad in grads:
        bad += int((~grad.isfinite()).sum())
        torch.nan_to_num_(grad, nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT)
    return bad


def to_network_range(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 images to float32 in [−1, 1]."""
    return images.to(device).to(torch.float32) / 127.5 - 1


class Trainer:
    """All that changes while training; `step` shows one batch, `state` and `load_state` resume.

    Args:
        config: resolved options (`TrainConfig.resolved`).
        dataset: the real images.
        device: where the networks live.

    Random numbers for latents and labels come from generators of the trainer's own, so that
    nothing else a program does in between changes a run.
    """

    def __init__(self, config: TrainConfig, dataset: ImageDataset, device: torch.device):
        self.config, self.dataset, self.device = config, dataset, device
        torch.manual_seed(config.seed)
        self._z_random = torch.Generator(device="cpu").manual_seed(config.seed)
        self._label_random = np.random.RandomState(config.seed)
        shape = (dataset.resolution, dataset.image_shape[0], dataset.label_dim)
        kind, kwargs = generator_kwargs(config, *shape)
        self.G = build_network(kind, kwargs).train().requires_grad_(False).to(device)
        kwargs = discriminator_kwargs(config, *shape)
        self.D = build_network("discriminator", kwargs).train().requires_grad_(False).to(device)
        self.G_ema = copy.deepcopy(self.G).eval()
        self.augment_pipe = None
        self.stats = Statistics()
        self.loss = StyleGAN2Loss(
            self.G, self.D, loss_config(config), self.augment_pipe, self.stats.report
        )
        g_interval = G_REG_INTERVAL if self.loss.config.pl_weight > 0 else None
        self._g_lr_ratio = 1.0 if g_interval is None else g_interval / (g_interval + 1)
        self.phases = make_phases("G", self.G, config.glr, g_interval)
        self.phases += make_phases("D", self.D, config.dlr, config.d_reg_interval)
        sampler = ShuffleSampler(len(dataset), seed=config.seed)
        self.loader = BatchLoader(dataset, sampler, config.batch)
        self.cur_nimg = self.batch_idx = self.tick = self.tick_start_nimg = 0
        self.seconds = 0.0  # spent in earlier sessions and steps
        self.nonfinite_gradients = 0

    def random_latents(self, count: int) -> torch.Tensor:
        """Fresh `z` `[count, z_dim]`."""
        return torch.randn([count, self.G.z_dim], generator=self._z_random).to(self.device)

    def random_labels(self, count: int) -> torch.Tensor:
        """Labels `[count, c_dim]` of randomly chosen training images."""
        if self.dataset.label_dim == 0:
            return torch.zeros([count, 0], device=self.device)
        indices = self._label_random.randint(len(self.dataset), size=count)
        return self.dataset.labels(indices).to(self.device)

    def step(self) -> None:
        """Show one batch: all phases that are due, then the average."""
        started = time.perf_counter()
        batch, pieces = self.config.batch, self.config.batch_gpu
        images, labels = self.loader.next()
        real = to_network_range(images, self.device).split(pieces)
        real_c = labels.to(self.device).split(pieces)
        gen_z = self.random_latents(len(self.phases) * batch).split(batch)
        gen_c = self.random_labels(len(self.phases) * batch).split(batch)
        self._warm_up()
        for phase, z, c in zip(self.phases, gen_z, gen_c, strict=True):
            if self.batch_idx % phase.interval == 0:
                self._run_phase(phase, real, real_c, z.split(pieces), c.split(pieces))
        beta = ema_beta(batch, self.config.ema_kimg, self.cur_nimg, self.config.ema_rampup)
        update_ema(self.G_ema, self.G, beta)
        self.cur_nimg += batch
        self.batch_idx += 1
        self.seconds += time.perf_counter() - started

    def _warm_up(self) -> None:
        """Set G's learning rate while `glr_warmup_kimg` lasts, and once at its end."""
        images = self.config.glr_warmup_kimg * 1000
        if images == 0 or self.cur_nimg > images + self.config.batch:
            return
        optimizer = self.optimizers()["G"]
        for group in optimizer.param_groups:
            base = self.config.glr * self._g_lr_ratio
            group["lr"] = base * min(self.cur_nimg / images, 1.0)

    def _run_phase(self, phase: Phase, real, real_c, gen_z, gen_c) -> None:
        phase.optimizer.zero_grad(set_to_none=True)
        phase.network.requires_grad_(True)
        # Averaged over the passes: how a batch is split does not change its gradient.
        gain = phase.interval / len(real)
        for piece in zip(real, real_c, gen_z, gen_c, strict=True):
            self.loss.accumulate_gradients(phase.name, *piece, gain=gain, cur_nimg=self.cur_nimg)
        phase.network.requires_grad_(False)
        self.nonfinite_gradients += guard_gradients(phase.network)
        phase.optimizer.step()

    def load_networks(self, networks) -> list[str]:
        """Start from the tensors of `networks` (an `sg3.Networks`) that match by name.

        Returns the names missing there. Raises ValueError listing tensors of another shape.
        """
        missing: list[str] = []
        for own, other, label in (
            (self.G, networks.G or networks.G_ema, "G"),
            (self.D, networks.D, "D"),
            (self.G_ema, networks.G_ema, "G_ema"),
        ):
            tensors = {} if other is None else other.state_dict()
            wanted = own.state_dict()
            wrong = [
                f"{n} is {list(tensors[n].shape)}, here {list(t.shape)}"
                for n, t in wanted.items()
                if n in tensors and tensors[n].shape != t.shape
            ]
            if wrong:
                raise ValueError(
                    f"--resume: {len(wrong)} tensors of {label} do not fit, first {wrong[0]}; "
                    "use the options the network was trained with"
                )
            missing += [f"{label}.{name}" for name in wanted if name not in tensors]
            own.load_state_dict({n: t for n, t in tensors.items() if n in wanted}, strict=False)
        return missing

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by the letter of their network."""
        return {phase.name[0]: phase.optimizer for phase in self.phases}

    def counters(self) -> dict[str, int | float]:
        """Plain numbers that say how far the run is."""
        names = ("cur_nimg", "batch_idx", "tick", "tick_start_nimg", "nonfinite_gradients")
        return {name: getattr(self, name) for name in (*names, "seconds")}

    def close(self) -> None:
        """End the reading thread."""
        self.loader.close()
