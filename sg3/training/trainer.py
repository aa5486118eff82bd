"""Networks, optimisers and counters of a run, and one training step (REFERENCE.md §4.2, §4.4)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sg3.data import open_loader
from sg3.distributed.team import Team
from sg3.networks import build_network
from sg3.networks.compiled import compile_synthesis
from sg3.networks.precision import HALF_DTYPES, set_half_precision
from sg3.training.ada import AdaConfig, AdaController
from sg3.training.config import TrainConfig
from sg3.training.ema import ema_beta, update_ema
from sg3.training.loss import GANLoss
from sg3.training.presets import (
    augment_kwargs,
    discriminator_kwargs,
    generator_kwargs,
    loss_config,
)
from sg3.training.stats import Statistics
from sg3.training.transfer import TransferReport, start_from

GRADIENT_LIMIT = 1e5  # what an infinite gradient becomes
G_REG_INTERVAL = 4  # of the path length, StyleGAN2 only
ADA_KIMG, ADA_KIMG_RESUMED = 500, 100
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Phase:
    """One kind of update: run every `interval` steps on `parameters` of `network`."""

    name: str
    network: nn.Module
    parameters: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    interval: int = 1


def make_optimizer(parameters, lr: float, reg_interval: int | None) -> torch.optim.Adam:
    """Adam(0, 0.99); with lazy regularisation slowed so that k+1 updates count as k."""
    ratio = 1.0 if reg_interval is None else reg_interval / (reg_interval + 1)
    return torch.optim.Adam(
        parameters, lr=lr * ratio, betas=(0.0, 0.99**ratio), eps=1e-8, fused=True
    )


def make_phases(
    name: str, network: nn.Module, trained: nn.Module, lr: float, reg_interval: int | None
) -> list[Phase]:
    """Phases that train `trained`, a part of `network`: main and lazily regularised, or both."""
    parameters = tuple(trained.parameters())
    optimizer = make_optimizer(parameters, lr, reg_interval)
    if reg_interval is None:
        return [Phase(f"{name}both", network, parameters, optimizer)]
    return [
        Phase(f"{name}main", network, parameters, optimizer),
        Phase(f"{name}reg", network, parameters, optimizer, reg_interval),
    ]


def guard_gradients(grads: list[torch.Tensor]) -> int:
    """Replace NaN by 0 and infinity by ±1e5 in place; how many values that touched."""
    if not grads or torch.stack(torch._foreach_norm(grads)).sum().isfinite():
        return 0
    bad = 0
    for grad in grads:
        bad += int((~grad.isfinite()).sum())
        torch.nan_to_num_(grad, nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT)
    return bad


def to_network_range(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 images to float32 in [−1, 1]."""
    return images.to(device, non_blocking=True).to(torch.float32) / 127.5 - 1


def split_in_strides(items: torch.Tensor, num_parts: int) -> list[torch.Tensor]:
    """`num_parts` interleaved parts: minibatch statistics then group the same images as whole."""
    return [items[part::num_parts] for part in range(num_parts)]


class Trainer:
    """All that changes while training; `step` shows one batch to every process together.

    Args:
        config: resolved options (`TrainConfig.resolved`).
        dataset: the real images (`sg3.data.open_dataset`).
        team: this process and those that train with it.
        start: networks (`sg3.Networks`) whose weights the run begins with, or None.
        kwargs: constructor arguments of G and D, where a saved state prescribes them.
        say: receives lines for the log.
        loss: `GANLoss`, or a class that gives every phase its gradients as it does.

    Latents and labels come from generators of the trainer's own, drawn for the whole batch on
    every process, so that neither other code nor the number of processes changes what is shown.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset,
        team: Team | None = None,
        start=None,
        kwargs: dict[str, dict] | None = None,
        say: Callable[[str], None] = lambda line: None,
        loss: type[GANLoss] = GANLoss,
    ):
        self.config, self.dataset, self.team = config, dataset, team or Team()
        self.device, self.say = self.team.device, say
        self._seed_everything()
        self.transfer_reports: list[TransferReport] = []
        self.team.agree(lambda: self._build_modules(start, kwargs))
        for network in (self.G, self.D, self.G_ema):
            self.team.broadcast(network)
        self.stats = Statistics()
        self.loss = loss(self.G, self.D, loss_config(config), self.augment_pipe, self._report)
        self._build_phases()
        self.loader = open_loader(
            dataset,
            config.batch // self.team.size,
            seed=config.seed,
            rank=self.team.rank,
            replicas=self.team.size,
            workers=config.workers,
            pin=self.device.type == "cuda",
        )
        share = config.batch // self.team.size
        self.pass_size = share if config.batch_gpu == "auto" else config.batch_gpu
        self.cur_nimg = self.batch_idx = self.tick = self.tick_start_nimg = 0
        self.seconds = 0.0  # spent in earlier sessions and steps
        self.nonfinite_gradients = 0

    def _seed_everything(self) -> None:
        seed = self.config.seed
        self._z_random = torch.Generator(device="cpu").manual_seed(seed)
        self._label_random = np.random.RandomState(seed)
        torch.manual_seed(seed)  # the networks begin alike everywhere

    def _build_modules(self, start, kwargs) -> None:
        self._build_networks(start, kwargs)
        if start is not None:
            self.transfer_reports = start_from(start, self.G, self.D, self.G_ema)
        self._build_augmentation()

    def _build_networks(self, start, kwargs) -> None:
        config, dataset = self.config, self.dataset
        shape = (tuple(dataset.image_shape), dataset.label_dim)
        if kwargs is None:
            kind, g_kwargs = generator_kwargs(config, *shape, start and (start.G or start.G_ema))
            d_kwargs = discriminator_kwargs(config, *shape, start and start.D)
        else:
            kind = "stylegan2" if config.cfg == "stylegan2" else "stylegan3"
            g_kwargs, d_kwargs = kwargs["G"], kwargs["D"]
        self.G = build_network(kind, g_kwargs).train().requires_grad_(False).to(self.device)
        self.D = build_network("discriminator", d_kwargs).train().requires_grad_(False)
        self.D = self.D.to(self.device)
        self.G_ema = copy.deepcopy(self.G).eval()
        if config.precision in HALF_DTYPES:
            for network in (self.G, self.D, self.G_ema):
                set_half_precision(network, config.precision)
        if config.compile:
            compile_synthesis(self.G)
        # From here on every process draws its own augmentations and mixing points.
        torch.manual_seed(config.seed * self.team.size + self.team.rank)

    def _build_augmentation(self) -> None:
        config, self.augment_pipe, self.ada = self.config, None, None
        if config.aug == "noaug":
            return
        self.augment_pipe = build_network("augment", augment_kwargs(config)).to(self.device)
        self.augment_pipe.p.fill_(config.p if config.aug == "fixed" else config.initial_p)
        if config.aug == "ada":
            kimg = ADA_KIMG_RESUMED if config.from_network else ADA_KIMG
            self.ada = AdaController(self.augment_pipe, AdaConfig(target=config.target, kimg=kimg))

    def _build_phases(self) -> None:
        config = self.config
        g_interval = G_REG_INTERVAL if self.loss.config.pl_weight > 0 else None
        self._g_lr_ratio = 1.0 if g_interval is None else g_interval / (g_interval + 1)
        trained = self.G.synthesis if config.freeze_mapping else self.G
        self.phases = make_phases("G", self.G, trained, config.glr, g_interval)
        self.phases += make_phases("D", self.D, self.D, config.dlr, config.d_reg_interval)

    def _report(self, name: str, values: torch.Tensor) -> None:
        self.stats.report(name, values)
        if self.ada is not None and name == "Loss/signs/real":
            self.ada.observe(values)

    def random_latents(self, count: int) -> torch.Tensor:
        """Fresh `z` `[count, z_dim]`, on the CPU, the same on every process."""
        return torch.randn([count, self.G.z_dim], generator=self._z_random)

    def step(self) -> None:
        """Show one batch: all phases that are due, then the average, then ADA."""
        started = time.perf_counter()
        batch, num_phases = self.config.batch, len(self.phases)
        images, labels = self.loader.next()
        real = to_network_range(images, self.device), labels.to(self.device)
        gen_z = self.random_latents(num_phases * batch).split(batch)
        gen_c = self.dataset.random_labels(self._label_random, num_phases * batch).split(batch)
        self._warm_up()
        for phase, z, c in zip(self.phases, gen_z, gen_c, strict=True):
            if self.batch_idx % phase.interval == 0:
                shares = [self.team.share(part).to(self.device) for part in (z, c)]
                self._run_phase(phase, (*real, *shares))
        beta = ema_beta(batch, self.config.ema_kimg, self.cur_nimg, self.config.ema_rampup)
        update_ema(self.G_ema, self.G, beta)
        self.cur_nimg += batch
        self.batch_idx += 1
        if self.ada is not None:
            self.ada.adjust(self.batch_idx, batch, self.team.sum_)
        self.seconds += time.perf_counter() - started

    def _warm_up(self) -> None:
        """Set G's learning rate while `glr_warmup_kimg` lasts, and once at its end."""
        images = self.config.glr_warmup_kimg * 1000
        if images == 0 or self.cur_nimg > images + self.config.batch:
            return
        for group in self.optimizers()["G"].param_groups:
            base = self.config.glr * self._g_lr_ratio
            group["lr"] = base * min(self.cur_nimg / images, 1.0)

    def _run_phase(self, phase: Phase, items: tuple[torch.Tensor, ...]) -> None:
        """Gradients of one phase, in smaller passes if memory runs out on any process; a step."""
        while not self._accumulate(phase, items):
            self._halve_pass()
        grads = [p.grad for p in phase.parameters if p.grad is not None]
        self.team.mean_([*grads, *self._moving_averages(phase)])
        self.nonfinite_gradients += guard_gradients(grads)
        phase.optimizer.step()

    def _moving_averages(self, phase: Phase) -> list[torch.Tensor]:
        """Tensors that `phase` updates with each process's own images, beside gradients."""
        if phase.name == "Greg":
            return [self.loss.pl_mean]
        if phase.name not in ("Dmain", "Dboth"):
            return []
        ends = ("w_avg", "magnitude_ema")
        return [b for name, b in self.G.named_buffers() if name.endswith(ends)]

    def _accumulate(self, phase: Phase, items: tuple[torch.Tensor, ...]) -> bool:
        """Add up gradients over passes; False on all processes if one ran out of memory."""
        phase.optimizer.zero_grad(set_to_none=True)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        parts = [split_in_strides(x, len(items[0]) // self.pass_size) for x in items]
        # Averaged over the passes: how a batch is split does not change its gradient.
        gain = phase.interval / len(parts[0])
        failed = False
        try:
            for piece in zip(*parts, strict=True):
                self.loss.accumulate_gradients(
                    phase.name, *piece, gain=gain, cur_nimg=self.cur_nimg
                )
        except (RuntimeError, MemoryError) as error:
            if self.config.batch_gpu != "auto" or not is_out_of_memory(error):
                raise
            failed = True
        for parameter in phase.parameters:
            parameter.requires_grad_(False)
        return not (self.config.batch_gpu == "auto" and self.team.any(failed))

    def _halve_pass(self) -> None:
        """Half the images per pass from now on, on every process. Raises ValueError at the end."""
        size = self.pass_size // 2
        share = self.config.batch // self.team.size
        if size < self.config.mbstd_group or share % size or size % self.config.mbstd_group:
            raise ValueError(
                f"--batch-gpu: out of memory with {self.pass_size} images per pass, which cannot "
                "be halved; choose a smaller --batch, --cbase or --mbstd-group"
            )
        self.pass_size = size
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(f"out of memory: going on with {size} images per pass")

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by the letter of their network."""
        return {phase.name[0]: phase.optimizer for phase in self.phases}

    def counters(self) -> dict[str, int | float]:
        """Plain numbers that say how far the run is."""
        names = ("cur_nimg", "batch_idx", "tick", "tick_start_nimg", "nonfinite_gradients")
        return {name: getattr(self, name) for name in (*names, "pass_size", "seconds")}

    def close(self) -> None:
        """End the reading."""
        self.loader.close()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer images per pass may help."""
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        phrase in text for phrase in OUT_OF_MEMORY
    )
