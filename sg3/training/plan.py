"""Will it fit, and how long will it take: a run's memory and speed before it starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sg3.networks import build_network
from sg3.networks.augment import AugmentPipe
from sg3.training.config import TrainConfig
from sg3.training.loop import prepare_device
from sg3.training.loss import GANLoss
from sg3.training.plan_measure import measure as measure_steps
from sg3.training.plan_model import cost_of, paths_of
from sg3.training.plan_rates import Card, Rates
from sg3.training.presets import (
    augment_kwargs,
    discriminator_kwargs,
    generator_kwargs,
    loss_config,
)
from sg3.training.trainer import G_REG_INTERVAL

GIB = 2**30
FLOAT_BYTES, ADAM_BYTES = 4, 8  # Adam keeps two moments of every trained number
#: Traffic in bytes per number: of an update (gradient's norm, Adam), and of the average.
UPDATE_BYTES, AVERAGE_BYTES = 4 + 7 * 4, 3 * 4
EXCHANGE_BANDWIDTH = 50e9  # bytes/s between GPUs, taken for all machines
#: Beside tensors, a CPU's convolutions and allocator take memory, and so does an idle process:
#: fitted to 16 measured runs (torch 2.15, 16² to 128², 12 to 1622 MiB of tensors), which it meets
#: within 10 %, as it did six others.
CPU_FACTOR, CPU_PROCESS_BYTES = 1.55, 0.8 * GIB
#: What a card needs beyond tensors: workspaces, and the driver's context. Not measured.
CARD_FACTOR, CARD_CONTEXT_BYTES = 1.1, 0.5 * GIB


@dataclass(frozen=True)
class PlanRow:
    """What training costs with `images_per_pass` images at a time on every GPU.

    `source` says whether the figures are 'measured' or 'estimated'; they are None where memory
    ran out. Memory is that of one GPU, or process; `days` are those of the whole run.
    """

    images_per_pass: int
    memory_gib: float | None
    seconds_per_kimg: float | None
    days: float | None
    source: str
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """Numbers that G and D learn, and bytes of the files that a run writes."""

    g_parameters: int
    d_parameters: int
    state_bytes: int
    snapshot_bytes: int


class Parts:
    """The networks of a run as shapes alone, and the bytes that stay all the time."""

    def __init__(self, config: TrainConfig, image_shape: tuple[int, int, int], label_dim: int):
        self.image_shape, self.label_dim = image_shape, label_dim
        kind, kwargs = generator_kwargs(config, image_shape, label_dim)
        self.G = _without_numbers(build_network(kind, kwargs))
        kwargs = discriminator_kwargs(config, image_shape, label_dim)
        self.D = _without_numbers(build_network("discriminator", kwargs))
        self.augment = None
        if config.aug != "noaug":
            self.augment = _without_numbers(AugmentPipe(**augment_kwargs(config)))
        trained = self.G.synthesis if config.freeze_mapping else self.G
        #: What the optimisers change, by the letter of the network.
        self.trained = {"G": list(trained.parameters()), "D": list(self.D.parameters())}

    def num_trained(self, letter: str) -> int:
        """Numbers that the optimiser of G or D changes."""
        return sum(p.numel() for p in self.trained[letter])

    @property
    def constant_bytes(self) -> int:
        """Weights of G, D and the average, and Adam's moments."""
        moments = ADAM_BYTES * (self.num_trained("G") + self.num_trained("D"))
        return 2 * _bytes(self.G) + _bytes(self.D) + moments

    def sizes(self) -> Sizes:
        """Counted, without the few kilobytes of names that every file has."""
        augment = 0 if self.augment is None else _bytes(self.augment)
        return Sizes(
            *(sum(p.numel() for p in net.parameters()) for net in (self.G, self.D)),
            state_bytes=self.constant_bytes,
            snapshot_bytes=2 * _bytes(self.G) + _bytes(self.D) + augment,
        )


def _without_numbers(network: nn.Module) -> nn.Module:
    return network.train().requires_grad_(False).to("meta")


def _bytes(network: nn.Module) -> int:
    return sum(t.nbytes for t in [*network.parameters(), *network.buffers()])


class Estimate:
    """Memory and time of a run from the shapes of its tensors and a device's rates."""

    def __init__(self, parts: Parts, device: torch.device, rates: Rates, paths: dict[str, str]):
        self.parts, self.device, self.rates, self.paths = parts, device, rates, paths

    def phases(self, config: TrainConfig) -> dict[str, int]:
        """Every how many steps each phase runs, as in `Trainer`."""
        if loss_config(config).pl_weight > 0:
            phases = {"Gmain": 1, "Greg": G_REG_INTERVAL}
        else:
            phases = {"Gboth": 1}
        return phases | {"Dmain": 1, "Dreg": config.d_reg_interval}

    def step(self, config: TrainConfig, num_gpus: int) -> tuple[float, float]:
        """Most bytes of a GPU, and seconds of an average step, for a resolved `config`."""
        parts = self.parts
        share = config.batch // num_gpus
        passes = share // config.batch_gpu
        seconds = _bytes(parts.G) / FLOAT_BYTES * AVERAGE_BYTES / self.rates.bandwidth
        peak = 0
        for phase, interval in self.phases(config).items():
            pass_peak, pass_seconds = self._phase(config, phase, passes)
            peak = max(peak, pass_peak)
            seconds += (passes * pass_seconds + self._update(phase, num_gpus)) / interval
        images = share * math.prod(parts.image_shape) * FLOAT_BYTES
        return parts.constant_bytes + images + peak, seconds

    def _phase(self, config: TrainConfig, phase: str, passes: int) -> tuple[int, float]:
        """Most bytes beside the constant ones, and seconds of one pass."""
        letter, other = phase[0], "D" if phase[0] == "G" else "G"
        run = self._pass(config, phase)
        parameters = self.parts.trained[letter]
        for parameter in parameters:
            parameter.requires_grad_(True)
        # Augmentations that move an image are taken to reach half its side beyond its border.
        side = max(self.parts.image_shape[1:])
        cost = cost_of(run, self.device, self.rates, self.paths, side)
        peak = cost.peak + self.parts.num_trained(other) * FLOAT_BYTES
        if passes > 1:  # later passes begin with the gradients of the first
            peak += self.parts.num_trained(letter) * FLOAT_BYTES
        for parameter in parameters:
            parameter.requires_grad_(False).grad = None
        return peak, cost.seconds

    def _pass(self, config: TrainConfig, phase: str):
        parts, n = self.parts, config.batch_gpu
        # Mixing calls the small mapping network once more, at random: left out.
        settings = dataclasses.replace(loss_config(config), style_mixing_prob=0)
        loss = GANLoss(parts.G, parts.D, settings, parts.augment)
        items = (
            torch.empty([n, *parts.image_shape], device="meta"),
            torch.empty([n, parts.label_dim], device="meta"),
            torch.empty([n, parts.G.z_dim], device="meta"),
            torch.empty([n, parts.label_dim], device="meta"),
        )
        end = round(config.kimg * 1000)
        return lambda: loss.accumulate_gradients(phase, *items, gain=1, cur_nimg=end)

    def _update(self, phase: str, num_gpus: int) -> float:
        """Seconds of the optimiser, and of averaging the gradients over the GPUs."""
        numbers = self.parts.num_trained(phase[0])
        sent = 2 * (num_gpus - 1) / num_gpus * numbers * FLOAT_BYTES  # around a ring
        return numbers * UPDATE_BYTES / self.rates.bandwidth + sent / EXCHANGE_BANDWIDTH


def pass_configs(config: TrainConfig, resolution: int, num_gpus: int) -> list[TrainConfig]:
    """`config` resolved for every number of images per pass that it allows, smallest first.

    Raises ValueError if it allows none.
    """
    config.resolved(resolution, num_gpus)
    share, found = config.batch // num_gpus, []
    for size in range(1, share + 1):
        try:
            own = dataclasses.replace(config, batch_gpu=size).resolved(resolution, num_gpus)
        except ValueError:
            continue
        found.append(own)
    return found


def sizes(
    config: TrainConfig, image_shape: tuple[int, int, int], num_gpus: int = 1, label_dim: int = 0
) -> Sizes:
    """Parameters and files of a run on images `[C, H, W]`."""
    configs = pass_configs(config, max(image_shape[1:]), num_gpus)
    return Parts(configs[0], image_shape, label_dim).sizes()


def plan(
    config: TrainConfig,
    image_shape: tuple[int, int, int],
    num_gpus: int = 1,
    device: torch.device | str = "cpu",
    measure: bool = False,
    card: Card | None = None,
    label_dim: int = 0,
) -> Iterator[PlanRow]:
    """What a run on images `[C, H, W]` would cost, for every number of images per pass.

    Args:
        config: the run; `batch_gpu` is left out.
        num_gpus: processes that share the batch.
        device: where to measure, or what to estimate for.
        measure: make real steps there instead of an estimate; stops when memory runs out.
        card: estimate for this GPU, from published numbers (`sg3.training.plan_rates.CARDS`).

    Raises ValueError for options that do not fit.
    """
    device = torch.device("cuda" if card is not None else device)
    configs = pass_configs(config, max(image_shape[1:]), num_gpus)
    rows = _measured if measure else _estimated
    yield from rows(configs, image_shape, num_gpus, device, card, label_dim)


def _measured(configs, image_shape, num_gpus, device, card, label_dim) -> Iterator[PlanRow]:
    for config in configs:
        share = config.batch // num_gpus
        own = dataclasses.replace(config, batch=share, device=str(device))
        found = measure_steps(own, image_shape, label_dim)
        if found.out_of_memory:
            note = "out of memory; larger passes were not tried"
            yield PlanRow(config.batch_gpu, None, None, None, "measured", note)
            return
        note = "" if num_gpus == 1 else "without the exchange between GPUs"
        yield _row(config, found.peak, found.seconds, "measured", note)


def _estimated(configs, image_shape, num_gpus, device, card, label_dim) -> Iterator[PlanRow]:
    if card is None:  # as a run would set it up
        prepare_device(dataclasses.replace(configs[0], device=str(device)))
    rates = Rates.measured(device) if card is None else Rates.of_card(card)
    paths = paths_of(device, card is None or card.has_triton)
    parts = Parts(configs[0], image_shape, label_dim)
    estimate = Estimate(parts, device, rates, paths)
    for config in configs:
        peak, seconds = estimate.step(config, num_gpus)
        if device.type == "cpu":
            peak = peak * CPU_FACTOR + CPU_PROCESS_BYTES
        needed = peak * CARD_FACTOR + CARD_CONTEXT_BYTES
        fits = card is None or needed < card.memory * GIB
        note = "" if fits else f"does not fit in {card.memory:g} GiB"
        yield _row(config, peak, seconds, "estimated", note)


def _row(config: TrainConfig, peak: float, seconds: float, source: str, note: str) -> PlanRow:
    per_kimg = seconds * 1000 / config.batch
    days = per_kimg * config.kimg / 86400
    return PlanRow(config.batch_gpu, peak / GIB, per_kimg, days, source, note)
