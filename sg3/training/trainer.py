"""Networks, optimizers and counters of a run, and one training step (REFERENCE.md §4.2, §4.4)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sg3 import devices
from sg3.checkpoints.networks import Networks
from sg3.data import ImageDataset, ShardDataset, open_loader
from sg3.distributed import Team
from sg3.errors import UserError
from sg3.networks import build_network
from sg3.networks.compiled import compile_synthesis
from sg3.networks.precision import HALF_DTYPES, set_half_precision
from sg3.training.architecture import discriminator_kind, discriminator_kwargs, generator_kwargs
from sg3.training.augmentation import Augmentation
from sg3.training.config import TrainConfig
from sg3.training.freezing import trained_parameters
from sg3.training.loss import GANLoss, Pair, loss_config
from sg3.training.power_ema import PowerEMA
from sg3.training.stats import Statistics
from sg3.training.transfer import TransferReport, start_from

GRADIENT_LIMIT = 1e5  # replaces infinite gradients
G_REG_INTERVAL = 4  # steps between path length updates, StyleGAN2 only
# CPU allocators and cuBLAS raise a plain RuntimeError: only its text tells.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def prepare_device(config: TrainConfig) -> torch.device:
    """Return the device of `config` and apply the settings of threads, cuDNN and TF32."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.backends.cudnn.benchmark = not config.nobench
    # Full float32: TF32 would keep 10 bits of the mantissa.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return devices.resolve_device(config.device)


def ema_beta(batch: int, ema_kimg: float, cur_nimg: int, rampup: float | None) -> float:
    """Return the decay of the EMA per step (REFERENCE.md §4.7).

    Args:
        batch: images per step.
        ema_kimg: half-life in thousands of images.
        cur_nimg: images shown so far.
        rampup: limits the half-life to this fraction of the images shown; None: no limit.
    """
    half_life = ema_kimg * 1000
    if rampup is not None:
        # Early in a run the initial random weights would dominate a longer average.
        half_life = min(half_life, cur_nimg * rampup)
    # With no image shown the half-life is 0: beta is 0, and the average a copy of G.
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, beta: float) -> None:
    """Move the parameters of `average` towards `network` and copy its buffers."""
    old: list[torch.Tensor] = list(average.parameters())
    new: list[torch.Tensor] = list(network.parameters())
    torch._foreach_lerp_(old, new, 1 - beta)
    # Not averaged: `w_avg` and `magnitude_ema` are moving averages themselves.
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)


@dataclass(frozen=True)
class Phase:
    """One kind of update: every `interval` steps, on `parameters` of `network`."""

    name: str
    network: nn.Module
    parameters: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    interval: int = 1


def make_optimizer(
    parameters: Iterable[nn.Parameter], lr: float, reg_interval: int | None
) -> torch.optim.Adam:
    """Return Adam(0, 0.99).

    With lazy regularization every k steps there are k+1 updates per k steps; learning rate and
    betas are adjusted to make up for it (SG2 Appendix B).
    """
    # The first beta is 0 to any power; only lr and the second one change.
    ratio = 1.0 if reg_interval is None else reg_interval / (reg_interval + 1)
    return torch.optim.Adam(
        parameters, lr=lr * ratio, betas=(0.0, 0.99**ratio), eps=1e-8, fused=True
    )


def make_phases(
    name: str,
    network: nn.Module,
    trained: Iterable[nn.Parameter],
    lr: float,
    reg_interval: int | None,
) -> list[Phase]:
    """Return the phases of G or D: a main and a regularization phase, or both in one.

    Args:
        name: "G" or "D".
        network: the whole network.
        trained: its parameters that are optimized.
        lr: learning rate.
        reg_interval: steps between regularization updates; None regularizes at every step.
    """
    parameters = tuple(trained)
    # One for both phases: they share Adam's moments (REFERENCE.md §4.4).
    optimizer = make_optimizer(parameters, lr, reg_interval)
    if reg_interval is None:
        return [Phase(f"{name}both", network, parameters, optimizer)]
    return [
        Phase(f"{name}main", network, parameters, optimizer),
        Phase(f"{name}reg", network, parameters, optimizer, reg_interval),
    ]


def guard_gradients(grads: list[torch.Tensor]) -> int:
    """Replace NaN by 0 and infinity by ±1e5 in place; return the number of such values."""
    # The norms tell in one synchronization whether there is any.
    if not grads or torch.stack(torch._foreach_norm(grads)).sum().isfinite():
        return 0
    bad = 0
    for grad in grads:
        bad += int((~grad.isfinite()).sum())
        torch.nan_to_num_(grad, nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT)
    return bad


def to_network_range(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Convert uint8 images to float32 in [−1, 1] on `device`."""
    return images.to(device, non_blocking=True).to(torch.float32) / 127.5 - 1


def split_in_strides(items: torch.Tensor, num_parts: int) -> list[torch.Tensor]:
    """Split `items` into `num_parts` interleaved parts.

    D's minibatch statistics group images at the same stride, so every group stays whole.
    """
    return [items[part::num_parts] for part in range(num_parts)]


class Trainer:
    """Everything that changes during training, and `step`.

    Latents and labels are drawn for the whole batch on every process, from generators that
    nothing else uses: neither other code nor the number of processes changes what is shown.

    Args:
        config: resolved options (`TrainConfig.resolved`).
        dataset: real images (`sg3.data.open_dataset`).
        team: this process and those that train with it.
        start: networks to start from, or None for random weights.
        kwargs: constructor arguments of G and D from a training state, or None.
        log: receives lines for the log.
        loss: `GANLoss` or a class with the same interface.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: ImageDataset | ShardDataset,
        team: Team | None = None,
        start: Networks | None = None,
        kwargs: dict[str, dict] | None = None,
        log: Callable[[str], object] = lambda line: None,
        loss: type[GANLoss] = GANLoss,
    ):
        self.config, self.dataset, self.team = config, dataset, team or Team()
        self.device, self.log = self.team.device, log
        self.pass_size = config.images_per_pass(self.team.size)
        self._seed()
        self.transfer_reports: list[TransferReport] = []
        self.team.agree(lambda: self._build_modules(start, kwargs))
        for network in (self.G, self.D, self.G_ema):
            self.team.broadcast(network)
        self.power_ema = PowerEMA(self.G, config.posthoc_ema)
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
        self.cur_nimg = self.batch_idx = self.tick = self.tick_start_nimg = 0
        self.seconds = 0.0  # of all steps, earlier sessions included
        self.waiting_seconds = 0.0  # of this session's steps: waiting for the loader
        self.nonfinite_gradients = 0

    def _seed(self) -> None:
        seed = self.config.seed
        self.z_random = torch.Generator(device="cpu").manual_seed(seed)
        self.label_random = np.random.RandomState(seed)
        torch.manual_seed(seed)  # the same initial weights on every process

    def _build_modules(self, start: Networks | None, kwargs: dict[str, dict] | None) -> None:
        self._build_networks(start, kwargs)
        if start is not None:
            self.transfer_reports = start_from(start, self.G, self.D, self.G_ema)
        augmentation = Augmentation(self.config, self.device)
        self.augment_pipe, self.augment_p = augmentation.pipe, augmentation.p
        self.pseudo_reals, self.ada = augmentation.pseudo_reals, augmentation.controller

    def _build_networks(self, start: Networks | None, kwargs: dict[str, dict] | None) -> None:
        config, dataset = self.config, self.dataset
        if kwargs is None:
            shape = (dataset.image_shape, dataset.label_dim)
            start = start or Networks()
            start_G = start.G or start.G_ema
            kind, g_kwargs = generator_kwargs(config, *shape, start_G, dataset.label_kind)
            d_kwargs = discriminator_kwargs(config, *shape, start.D, start_G)
        else:
            kind = "stylegan2" if config.cfg == "stylegan2" else "stylegan3"
            g_kwargs, d_kwargs = kwargs["G"], kwargs["D"]
        # Any: modules reach their submodules and buffers by names that types do not know.
        G, D = build_network(kind, g_kwargs), build_network(discriminator_kind(config), d_kwargs)
        # Frozen between phases: each turns on the gradients of what it trains (`_accumulate`).
        self.G: Any = G.train().requires_grad_(False).to(self.device)
        self.D: Any = D.train().requires_grad_(False).to(self.device)
        self.G_ema: Any = copy.deepcopy(self.G).eval()
        if config.precision in HALF_DTYPES:
            for network in (self.G, self.D, self.G_ema):
                set_half_precision(network, config.precision)
        if config.compile:
            compile_synthesis(self.G)
        # From here on every process draws its own augmentations and style mixing.
        torch.manual_seed(config.seed * self.team.size + self.team.rank)

    def _build_phases(self) -> None:
        config = self.config
        assert config.glr is not None, "options are resolved"
        g_interval = G_REG_INTERVAL if self.loss.config.pl_weight > 0 else None
        trained = self.team.agree(lambda: trained_parameters(self.G, config))
        self.phases = make_phases("G", self.G, trained, config.glr, g_interval)
        self._g_lr = self.phases[0].optimizer.param_groups[0]["lr"]  # before any warmup
        # Lazy only if steps lie between: at every step, one update has both gradients.
        d_interval = None if config.d_reg_interval == 1 else config.d_reg_interval
        self.phases += make_phases("D", self.D, self.D.parameters(), config.dlr, d_interval)

    def _report(self, name: str, values: torch.Tensor) -> None:
        self.stats.report(name, values)
        if self.ada is not None and name == "Loss/signs/real":
            self.ada.observe(values)

    def random_latents(self, count: int) -> torch.Tensor:
        """Draw `z` `[count, z_dim]` on the CPU, the same on every process."""
        return torch.randn([count, self.G.z_dim], generator=self.z_random)

    def step(self) -> None:
        """Train on one batch: run the phases that are due, update the EMA, adjust ADA."""
        started = time.perf_counter()
        config, num_phases = self.config, len(self.phases)
        images, labels = self.loader.next()
        self.waiting_seconds += time.perf_counter() - started
        real = self._presented(to_network_range(images, self.device), labels.to(self.device))
        # Drawn for all phases, due or not: what is shown does not depend on the intervals.
        gen_z = self.random_latents(num_phases * config.batch).split(config.batch)
        gen_c = self.dataset.random_labels(self.label_random, num_phases * config.batch)
        self._warm_up()
        for phase, z, c in zip(self.phases, gen_z, gen_c.split(config.batch), strict=True):
            if self.batch_idx % phase.interval == 0 and self._has_begun(phase):
                z, c = (self.team.shard(items).to(self.device) for items in (z, c))
                self._run_phase(phase, (*real, z, c))
        assert config.ema_kimg is not None, "options are resolved"
        # Uses the image count before the step, as the blur does (REFERENCE.md §4.2).
        beta = ema_beta(config.batch, config.ema_kimg, self.cur_nimg, config.ema_rampup)
        update_ema(self.G_ema, self.G, beta)
        self.cur_nimg += config.batch
        self.power_ema.update(self.G, self.cur_nimg, config.batch)
        self.batch_idx += 1
        if self.ada is not None:
            self.ada.adjust(self.batch_idx, config.batch, self.team.sum_)
        self.seconds += time.perf_counter() - started

    def _presented(self, images: torch.Tensor, labels: torch.Tensor) -> Pair:
        """Return what D sees as real: with APA, generated images of the same labels among them."""
        if self.pseudo_reals is None:
            return images, labels
        count = self.config.batch
        z, draws = self.random_latents(count), torch.rand([count], generator=self.z_random)
        z, draws = (self.team.shard(items).to(self.device) for items in (z, draws))

        def generate(chosen: torch.Tensor) -> torch.Tensor:
            parts = chosen.split(self.pass_size)
            return torch.cat([self.loss.run_G(z[part], labels[part])[0] for part in parts])

        return self.pseudo_reals(images, draws, generate), labels

    def _has_begun(self, phase: Phase) -> bool:
        """Whether `phase` trains yet: those of G wait for `d_first_kimg`."""
        return phase.name[0] == "D" or self.cur_nimg >= self.config.d_first_kimg * 1000

    def _warm_up(self) -> None:
        """Set G's learning rate during `glr_warmup_kimg`, and once after its end."""
        images = self.config.glr_warmup_kimg * 1000
        nimg = self.cur_nimg - self.config.d_first_kimg * 1000  # of G's training
        if images == 0 or nimg > images + self.config.batch:
            return
        for group in self.optimizers()["G"].param_groups:
            group["lr"] = self._g_lr * min(max(nimg / images, 0.0), 1.0)

    def _run_phase(self, phase: Phase, items: tuple[torch.Tensor, ...]) -> None:
        """Compute the gradients of a phase, in smaller passes if any process runs out of memory,
        average them over processes, and update."""
        while not self._accumulate(phase, items):
            self._halve_pass()
        grads = [p.grad for p in phase.parameters if p.grad is not None]
        # Before the guard: a NaN reaches all processes, which then replace it alike.
        self.team.mean_([*grads, *self._moving_averages(phase)])
        self.nonfinite_gradients += guard_gradients(grads)
        phase.optimizer.step()

    def _moving_averages(self, phase: Phase) -> list[torch.Tensor]:
        """Return tensors other than gradients that `phase` updated from this process's images."""
        if phase.name == "Greg":
            return [self.loss.pl_mean]
        if phase.name not in ("Dmain", "Dboth"):
            return []
        ends = ("w_avg", "magnitude_ema")
        return [b for name, b in self.G.named_buffers() if name.endswith(ends)]

    def _accumulate(self, phase: Phase, items: tuple[torch.Tensor, ...]) -> bool:
        """Accumulate gradients over passes; False on all processes if one ran out of memory."""
        # Also discards what a failed attempt with larger passes left behind.
        phase.optimizer.zero_grad(set_to_none=True)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        parts = [split_in_strides(x, len(items[0]) // self.pass_size) for x in items]
        # Averaged over passes: the gradient does not depend on how the batch is split. Lazy
        # regularizers count `interval` times, as they run once in `interval` steps.
        gain = phase.interval / len(parts[0])
        automatic, failed = self.config.batch_gpu == "auto", False
        try:
            for real, real_c, z, c in zip(*parts, strict=True):
                self.loss.accumulate_gradients(
                    phase.name, real, real_c, z, c, gain=gain, cur_nimg=self.cur_nimg
                )
        except (RuntimeError, MemoryError) as error:
            if not automatic or not is_out_of_memory(error):
                raise
            failed = True
        for parameter in phase.parameters:
            parameter.requires_grad_(False)
        # A collective call: `automatic` is the same everywhere, so all processes make it or none.
        return not (automatic and self.team.any(failed))

    def _halve_pass(self) -> None:
        """Halve the images per pass on every process. Raises ValueError if that is impossible."""
        # Minibatch statistics need whole groups, so a pass has at least one.
        size, group = self.pass_size // 2, self.config.mbstd_group
        if size < group or self.config.batch // self.team.size % size or size % group:
            raise UserError(
                f"batch_gpu: out of memory with {self.pass_size} images per pass, which cannot be "
                "halved; reduce `batch`, `cbase` or `mbstd_group`"
            )
        self.pass_size = size
        devices.empty_cache(self.device)
        self.log(f"out of memory: continuing with {size} images per pass")

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers of "G" and "D"."""
        return {phase.name[0]: phase.optimizer for phase in self.phases}

    def counters(self) -> dict[str, int | float]:
        """Return the numbers that a training state stores."""
        names = ("cur_nimg", "batch_idx", "tick", "tick_start_nimg", "nonfinite_gradients")
        return {name: getattr(self, name) for name in (*names, "pass_size", "seconds")}

    def close(self) -> None:
        """Stop the data loader."""
        self.loader.close()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that fewer images per pass may help."""
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        phrase in text for phrase in OUT_OF_MEMORY
    )
