"""Memory and time of a training run before it starts, measured or estimated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sg3.checkpoints.networks import Networks
from sg3.networks import build_network
from sg3.training.architecture import discriminator_kind, discriminator_kwargs, generator_kwargs
from sg3.training.augmentation import image_augmentation
from sg3.training.cards import Card
from sg3.training.config import TrainConfig
from sg3.training.cost_model import Rates, cost_of, paths_of
from sg3.training.freezing import trained_parameters
from sg3.training.loss import GANLoss, loss_config
from sg3.training.official_cost import official_bytes
from sg3.training.plan_measure import measure_steps, measure_steps_here
from sg3.training.trainer import G_REG_INTERVAL, prepare_device

GIB = 2**30
FLOAT_BYTES, ADAM_BYTES = 4, 8  # Adam keeps two moments per parameter
#: Memory traffic per parameter: of an update (gradient norm, Adam), and of the EMA.
UPDATE_BYTES, EMA_BYTES = 4 + 7 * 4, 3 * 4
ALL_REDUCE_BANDWIDTH = 50e9  # bytes/s between GPUs, assumed for all machines
#: Memory of a CPU process beyond tensors: convolution workspaces, the allocator, the process
#: itself. Fitted to 16 measured runs (torch 2.15, 16² to 128², 12 to 1622 MiB of tensors); within
#: 10 % of these and of six others.
CPU_FACTOR, CPU_PROCESS_BYTES = 1.55, 0.8 * GIB
#: About as many steps as `measure_steps_here` makes, and how long they may take in `estimate_run`.
MEASURED_STEPS, MAX_MEASURE_SEC = 4, 2.0
#: Memory of a GPU beyond tensors: workspaces, and the driver's context. Assumed, not measured.
CARD_FACTOR, CARD_CONTEXT_BYTES = 1.1, 0.5 * GIB


@dataclass(frozen=True)
class PlanRow:
    """Cost of a run for one number of images per pass.

    Attributes:
        images_per_pass: images per forward pass of one GPU or process.
        memory_gib: peak memory of one GPU or process; None if memory ran out.
        seconds_per_kimg: seconds per 1000 images; None if memory ran out.
        days: length of the whole run; None if memory ran out.
        source: "measured" or "estimated".
        note: remark, or an empty string.
        official_gib, official_seconds_per_kimg: the same for the official implementation
            (`sg3.training.official_cost`), which only cards have.
    """

    images_per_pass: int
    memory_gib: float | None
    seconds_per_kimg: float | None
    days: float | None
    source: str
    note: str = ""
    official_gib: float | None = None
    official_seconds_per_kimg: float | None = None


@dataclass(frozen=True)
class Sizes:
    """Parameters of G and D, and bytes of a training state and of a network file."""

    g_parameters: int
    d_parameters: int
    state_bytes: int
    snapshot_bytes: int


class Parts:
    """The networks of a run on the meta device, and the bytes that are allocated all the time."""

    def __init__(
        self,
        config: TrainConfig,
        image_shape: tuple[int, int, int],
        label_dim: int,
        start: Networks | None = None,
    ):
        self.image_shape, self.label_dim = image_shape, label_dim
        start = start or Networks()
        start_G = start.G or start.G_ema
        kind, kwargs = generator_kwargs(config, image_shape, label_dim, start_G)
        self.G: Any = _on_meta(build_network(kind, kwargs))
        kwargs = discriminator_kwargs(config, image_shape, label_dim, start.D, start_G)
        D: Any = _on_meta(build_network(discriminator_kind(config), kwargs))
        self.D = D
        if config.discriminator == "projected":
            D.load_features("meta")  # now, not in the passes that are counted
        described = image_augmentation(config)
        self.augment = None if described is None else _on_meta(build_network(*described))
        #: Parameters of the optimizers, by network.
        self.trained = {
            "G": trained_parameters(self.G, config),
            "D": list(self.D.parameters()),
        }

    def num_trained(self, network: str) -> int:
        """Return the number of trained parameters of "G" or "D"."""
        return sum(p.numel() for p in self.trained[network])

    @property
    def constant_bytes(self) -> int:
        """Bytes of G, D and G_ema, and of Adam's moments."""
        moments = ADAM_BYTES * (self.num_trained("G") + self.num_trained("D"))
        return 2 * _bytes(self.G) + _bytes(self.D) + moments

    def official_bytes(self, count: int, estimate: float) -> float:
        """Return the peak bytes of the official implementation with `count` images per pass.

        For StyleGAN2 it is `estimate`, ours: 8 % more than the one published figure.
        """
        if self.G.kind == "stylegan2":
            return estimate
        images_bytes = count * math.prod(self.image_shape) * FLOAT_BYTES
        return official_bytes(self.G, self.constant_bytes, images_bytes, count)

    def sizes(self) -> Sizes:
        """Count parameters and file sizes, without the few kilobytes of names in every file."""
        augment = 0 if self.augment is None else _bytes(self.augment)
        return Sizes(
            g_parameters=sum(p.numel() for p in self.G.parameters()),
            d_parameters=sum(p.numel() for p in self.D.parameters()),
            state_bytes=self.constant_bytes,
            snapshot_bytes=2 * _bytes(self.G) + _bytes(self.D) + augment,
        )


def _on_meta(network: nn.Module) -> nn.Module:
    return network.train().requires_grad_(False).to("meta")


def _bytes(network: nn.Module) -> int:
    return sum(t.nbytes for t in [*network.parameters(), *network.buffers()])


class Estimate:
    """Memory and time of a run, from the shapes of its tensors and the rates of a device."""

    def __init__(self, parts: Parts, device: torch.device, rates: Rates, paths: dict[str, str]):
        self.parts, self.device, self.rates, self.paths = parts, device, rates, paths

    def phases(self, config: TrainConfig) -> dict[str, int]:
        """Return the interval of each phase in steps, as in `Trainer`."""
        if loss_config(config).pl_weight > 0:
            phases = {"Gmain": 1, "Greg": G_REG_INTERVAL}
        else:
            phases = {"Gboth": 1}
        assert config.d_reg_interval is not None, "options are resolved"
        if config.d_reg_interval == 1:
            return phases | {"Dboth": 1}
        return phases | {"Dmain": 1, "Dreg": config.d_reg_interval}

    def step(self, config: TrainConfig, num_gpus: int) -> tuple[float, float]:
        """Return the peak bytes of a GPU and the seconds of an average step (resolved `config`)."""
        parts = self.parts
        batch = config.batch // num_gpus
        passes = batch // config.images_per_pass(num_gpus)
        seconds = _bytes(parts.G) / FLOAT_BYTES * EMA_BYTES / self.rates.bandwidth
        peak = 0
        for phase, interval in self.phases(config).items():
            pass_peak, pass_seconds = self._phase(config, phase, passes, num_gpus)
            peak = max(peak, pass_peak)
            seconds += (passes * pass_seconds + self._update(phase, num_gpus)) / interval
        images = batch * math.prod(parts.image_shape) * FLOAT_BYTES
        return parts.constant_bytes + images + peak, seconds

    def _phase(
        self, config: TrainConfig, phase: str, passes: int, num_gpus: int
    ) -> tuple[int, float]:
        """Return the peak bytes in addition to the constant ones, and the seconds, of one pass."""
        trained, other = phase[0], "D" if phase[0] == "G" else "G"
        run = self._pass(config, phase, num_gpus)
        parameters = self.parts.trained[trained]
        for parameter in parameters:
            parameter.requires_grad_(True)
        # The augmentation reads from its draws how far images move: assume half an image.
        side = max(self.parts.image_shape[1:])
        cost = cost_of(run, self.device, self.rates, self.paths, side)
        peak = cost.peak + self.parts.num_trained(other) * FLOAT_BYTES
        if passes > 1:  # later passes start with the gradients of the first
            peak += self.parts.num_trained(trained) * FLOAT_BYTES
        for parameter in parameters:
            parameter.requires_grad_(False).grad = None
        return peak, cost.seconds

    def _pass(self, config: TrainConfig, phase: str, num_gpus: int) -> Callable[[], None]:
        parts, n = self.parts, config.images_per_pass(num_gpus)
        # Style mixing only adds a second pass of the small mapping network, at random.
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
        """Return the seconds of the optimizer and of the all-reduce of the gradients."""
        parameters = self.parts.num_trained(phase[0])
        sent = 2 * (num_gpus - 1) / num_gpus * parameters * FLOAT_BYTES  # ring all-reduce
        return parameters * UPDATE_BYTES / self.rates.bandwidth + sent / ALL_REDUCE_BANDWIDTH


def pass_configs(config: TrainConfig, resolution: int, num_gpus: int) -> list[TrainConfig]:
    """Return `config` resolved for every possible number of images per pass, smallest first.

    Raises ValueError if there is none.
    """
    config.resolved(resolution, num_gpus)
    found = []
    for size in range(1, config.batch // num_gpus + 1):
        try:
            own = dataclasses.replace(config, batch_gpu=size).resolved(resolution, num_gpus)
        except ValueError:
            continue
        found.append(own)
    return found


def sizes(
    config: TrainConfig, image_shape: tuple[int, int, int], num_gpus: int = 1, label_dim: int = 0
) -> Sizes:
    """Return parameters and file sizes of a run on images of shape `[C, H, W]`."""
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
    """Yield what a run would cost for every possible number of images per pass.

    Args:
        config: options of the run; `batch_gpu` is ignored.
        image_shape: `[C, H, W]` of the training images.
        num_gpus: number of processes.
        device: where to measure, or what to estimate for.
        measure: make real steps instead of an estimate; ends when memory runs out.
        card: estimate for this GPU from published numbers (`sg3.training.cards.CARDS`).
        label_dim: size of a label, 0 without labels.

    Raises ValueError for options that do not fit.
    """
    configs = pass_configs(config, max(image_shape[1:]), num_gpus)
    if measure:
        yield from _measured(configs, image_shape, num_gpus, torch.device(device), label_dim)
    else:
        device = torch.device("cuda" if card is not None else device)
        yield from _estimated(configs, image_shape, num_gpus, device, card, label_dim)


def _measured(
    configs: list[TrainConfig],
    image_shape: tuple[int, int, int],
    num_gpus: int,
    device: torch.device,
    label_dim: int,
) -> Iterator[PlanRow]:
    for config in configs:
        own = dataclasses.replace(config, batch=config.batch // num_gpus, device=str(device))
        found = measure_steps(own, image_shape, label_dim)
        size = config.images_per_pass(num_gpus)
        if found.out_of_memory:
            note = "out of memory; larger passes were not tried"
            yield PlanRow(size, None, None, None, "measured", note)
            return
        note = "" if num_gpus == 1 else "without communication between GPUs"
        yield _row(config, size, found.peak, found.seconds, "measured", note)


def estimate_run(
    config: TrainConfig,
    image_shape: tuple[int, int, int],
    label_dim: int,
    num_processes: int,
    device: torch.device,
    start: Networks | None = None,
) -> tuple[PlanRow | None, Sizes]:
    """Return the cost of one run on this machine, within seconds.

    Real steps are measured if that is quick, else they are estimated from the rates of the device.

    Args:
        config: resolved options.
        image_shape: `[C, H, W]` of the training images.
        label_dim: size of a label, 0 without labels.
        num_processes: number of processes.
        device: where it would run; the row is None for devices without a cost model.
        start: networks that the run starts from.
    """
    parts = Parts(config, image_shape, label_dim, start)
    if device.type not in ("cpu", "cuda"):
        return None, parts.sizes()
    prepare_device(dataclasses.replace(config, device=str(device)))
    estimate = Estimate(parts, device, Rates.measured(device), paths_of(device))
    peak, seconds = estimate.step(config, num_processes)
    if device.type == "cpu":
        peak = round(peak * CPU_FACTOR + CPU_PROCESS_BYTES)
    size = config.images_per_pass(num_processes)
    row = _row(config, size, peak, seconds, "estimated", "")
    if start is None and seconds * MEASURED_STEPS < MAX_MEASURE_SEC:
        own = dataclasses.replace(config, batch=config.batch // num_processes, device=str(device))
        found = measure_steps_here(own, image_shape, label_dim)
        if not found.out_of_memory:
            # On a CPU the peak would be that of this process, whatever else it has done.
            peak = found.peak if device.type == "cuda" else peak
            row = _row(config, size, peak, found.seconds, "measured", "")
    return row, parts.sizes()


def _estimated(
    configs: list[TrainConfig],
    image_shape: tuple[int, int, int],
    num_gpus: int,
    device: torch.device,
    card: Card | None,
    label_dim: int,
) -> Iterator[PlanRow]:
    if card is None:  # threads count for the measured rates
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
        note = "" if fits or card is None else f"does not fit in {card.memory:g} GiB"
        row = _row(config, config.images_per_pass(num_gpus), peak, seconds, "estimated", note)
        yield row if card is None else _with_official(row, parts, card, config, num_gpus)


def _with_official(
    row: PlanRow, parts: Parts, card: Card, config: TrainConfig, num_gpus: int
) -> PlanRow:
    """Add what the official implementation would cost."""
    device = torch.device("cuda")
    official = Estimate(parts, device, Rates.of_card(card), paths_of(device))
    peak, seconds = official.step(config, num_gpus)
    return dataclasses.replace(
        row,
        official_gib=parts.official_bytes(row.images_per_pass, peak) / GIB,
        official_seconds_per_kimg=seconds * 1000 / config.batch,
    )


def _row(
    config: TrainConfig, size: int, peak: float, seconds: float, source: str, note: str
) -> PlanRow:
    per_kimg = seconds * 1000 / config.batch
    days = per_kimg * config.kimg / 86400
    return PlanRow(size, peak / GIB, per_kimg, days, source, note)
