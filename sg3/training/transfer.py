"""Start a run from another network's weights: copy what fits, report what does not."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sg3.checkpoints.networks import Networks
from sg3.errors import UserError

MAX_OCTAVES = 0.5  # between the cutoffs of two StyleGAN3 layers that are paired
MIN_BLOCK = 3  # tensors of a missing block that share one line
FADED = 0.1  # of the old weights in the average
MIN_FRACTION = 0.5  # of the synthesis weights that the other network must provide
#: Buffers that the architecture or the run determines; they are never copied.
FIXED = re.compile(r"(up_filter|down_filter|resample_filter|transform)$")


@dataclass(frozen=True)
class Misfit:
    """A tensor that keeps its random initialization."""

    name: str
    shape_here: tuple[int, ...]
    shape_there: tuple[int, ...] | None  # None: the other network has no such tensor

    def __str__(self) -> str:
        there = "missing" if self.shape_there is None else list(self.shape_there)
        return f"{self.name}: here {list(self.shape_here)}, there {there}"


@dataclass
class TransferReport:
    """What was copied into one network, and what was not.

    Attributes:
        part: "G", "D" or "G_ema".
        num_fitting: number of copied tensors.
        misfits: tensors that were not copied.
        pairs: names of paired StyleGAN3 layers, here and there, if the names differ.
        absent: whether the other file has no such network at all.
        from_average: whether its G_ema has taken the place of this network.
        fitting_blocks: names of the blocks of which at least one tensor was copied.
        colors: color channels here and there, if tensors of 1 were copied to 3 or the reverse.
    """

    part: str
    num_fitting: int = 0
    fitting_blocks: set[str] = field(default_factory=set)
    misfits: list[Misfit] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    absent: bool = False
    from_average: bool = False
    colors: tuple[int, int] | None = None

    def lines(self) -> list[str]:
        """Return lines for the log: layer pairs, blocks that are missing, then every misfit."""
        if self.absent:
            return [f"the network has no {self.part}: it starts from random weights"]
        lines = [f"the network has no {self.part}: its G_ema is used"] if self.from_average else []
        if self.colors:
            here, there = self.colors
            how = "each has the gray one's weights" if here == 3 else "it has their mean"
            lines.append(f"{self.part}: {here} color channels here, {there} there: {how}")
        lines += [f"{self.part}.{own} initialized from {other}" for own, other in self.pairs]
        return lines + _misfit_lines(self.part, self.misfits, self.fitting_blocks)

    def summary(self) -> str:
        """Return text like `G 132 of 140 tensors`."""
        total = self.num_fitting + len(self.misfits)
        return f"{self.part} {self.num_fitting} of {total} tensors"


def _misfit_lines(part: str, misfits: list[Misfit], fitting: set[str]) -> list[str]:
    """Return a line per misfit, but only one for a block of which the other network has nothing."""
    blocks: dict[str, list[Misfit]] = {}
    for misfit in misfits:
        blocks.setdefault(_block_of(misfit.name), []).append(misfit)
    lines = []
    for block, found in blocks.items():
        missing = block not in fitting and all(m.shape_there is None for m in found)
        if missing and len(found) >= MIN_BLOCK:
            lines.append(
                f"{part}.{block}: missing there, its {len(found)} tensors start from random weights"
            )
        else:
            lines += [f"{part}.{misfit}" for misfit in found]
    return lines


def _block_of(name: str) -> str:
    """Return the block of a tensor: `b8` of D, `synthesis.b8` or `mapping.fc0` of a generator."""
    parts = name.split(".")[:-1]
    depth = 2 if parts[:1] in (["synthesis"], ["mapping"]) else 1
    return ".".join(parts[:depth]) or name


def fading_line(ema_kimg: float) -> str:
    """Return the line about how long G_ema resembles the network that the run started from.

    Its weight halves every `ema_kimg`, without ramp-up (REFERENCE.md §4.7).
    """
    faded = ema_kimg * math.log2(1 / FADED)
    return (
        f"the averaged network, which grids and metrics show, resembles the old one at first: its "
        f"half-life is {ema_kimg:.3g} kimg, after {faded:.3g} kimg {FADED:.0%} of the old weights "
        "are left; a smaller `ema_kimg` fades them sooner"
    )


def pair_layers(own: Any, other: Any) -> list[tuple[str, str]]:
    """Pair layers of two StyleGAN3 synthesis networks by the frequencies they process.

    Every layer of `own` takes the layer of `other` with the nearest cutoff in cycles per image if
    it is within half an octave; order is kept and every layer is used at most once. The ToRGB
    layers are always paired.
    """
    pairs, free = [], list(other.plans[:-1])
    for plan in own.plans[:-1]:
        distances = [abs(math.log2(p.target.cutoff / plan.target.cutoff)) for p in free]
        if not distances or min(distances) > MAX_OCTAVES:
            continue
        best = distances.index(min(distances))
        pairs.append((plan.name, free[best].name))
        free = free[best + 1 :]  # keeps the order
    return [*pairs, (own.plans[-1].name, other.plans[-1].name)]


def _renamed_layers(own: Any, other: Any) -> list[tuple[str, str]]:
    """Return pairs of layer names; empty if both networks use the same names."""
    if own.kind != "stylegan3" or other.kind != "stylegan3":
        return []
    # Layer names contain size and channels, so networks of different resolution share none.
    if own.synthesis.layer_names == other.synthesis.layer_names:
        return []
    return pair_layers(own.synthesis, other.synthesis)


def transfer(part: str, own: Any, other: Any) -> TransferReport:
    """Copy every learned tensor of `other` that fits by name and shape into `own`."""
    report = TransferReport(part, absent=other is None)
    source: dict[str, torch.Tensor] = {} if other is None else other.state_dict()
    there = {}
    if other is not None:
        report.pairs = _renamed_layers(own, other)
        there = {f"synthesis.{a}": f"synthesis.{b}" for a, b in report.pairs}
    found = {}
    for name, tensor in own.state_dict().items():
        if FIXED.search(name):
            continue
        module, _, leaf = name.rpartition(".")
        layer = ".".join(module.split(".")[:2])
        name_there = there.get(layer, layer) + name[len(layer) :] if module else leaf
        given = source.get(name_there)
        if given is not None and given.shape != tensor.shape and _sees_colors(own, name):
            given = recolored(given, tensor.shape)
            if given.shape == tensor.shape:
                report.colors = (own.img_channels, other.img_channels)
        if given is not None and given.shape == tensor.shape:
            found[name] = given
        else:
            shape = None if given is None else tuple(given.shape)
            report.misfits.append(Misfit(name, tuple(tensor.shape), shape))
    own.load_state_dict(found, strict=False)
    report.num_fitting = len(found)
    report.fitting_blocks = {_block_of(name) for name in found}
    return report


def _sees_colors(own: Any, name: str) -> bool:
    """Whether a tensor of `own` has color channels."""
    layers = ["torgb", "fromrgb"]
    if own.kind == "stylegan3":
        layers.append(own.synthesis.layer_names[-1])
    *_, layer, _ = ["", "", *name.split(".")]
    return layer in layers


def recolored(given: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return weights or biases of ToRGB or FromRGB for 3 color channels from those for 1, or back.

    A gray image of 3 equal channels then comes out, or gets the score, as the image of 1 did.
    Tensors that differ from `shape` in another way are returned as they are.
    """
    axes = [i for i, (a, b) in enumerate(zip(given.shape, shape, strict=False)) if a != b]
    if len(shape) != given.ndim or len(axes) != 1 or axes[0] > 1:
        return given
    axis = axes[0]
    # FromRGB divides by the root of its input channels (equalized learning rate).
    gain = 3**-0.5 if axis == 1 else 1.0
    if (given.shape[axis], shape[axis]) == (1, 3):
        return given.repeat_interleave(3, axis) * gain
    if (given.shape[axis], shape[axis]) == (3, 1):
        return given.sum(axis, keepdim=True) * (gain if axis == 1 else 1 / 3)
    return given


def start_from(networks: Networks, G: Any, D: nn.Module, G_ema: nn.Module) -> list[TransferReport]:
    """Copy what fits of `networks` into G, D and G_ema.

    A file without G initializes both G and G_ema from its G_ema; without D, D stays random.
    `sg3.load` refuses files without G_ema.
    Raises ValueError if the network is of another kind or fills too little of G's synthesis.
    """
    source: Any = networks.G if networks.G is not None else networks.G_ema
    if source.kind != G.kind:
        raise UserError(
            f"resume: the network is a {source.kind}, the run a {G.kind}; choose another `cfg`"
        )
    reports = [
        transfer("G", G, source),
        transfer("D", D, networks.D),
        transfer("G_ema", G_ema, networks.G_ema),
    ]
    first = reports[0]
    first.from_average = networks.G is None
    misfits = {misfit.name for misfit in first.misfits}
    # Synthesis only: a mapping network of the usual width fits any run and is no use alone.
    parameters = G.synthesis.named_parameters(prefix="synthesis")
    sizes = {name: parameter.numel() for name, parameter in parameters}
    filled = sum(size for name, size in sizes.items() if name not in misfits)
    if filled < MIN_FRACTION * sum(sizes.values()):
        raise UserError(
            f"resume: the network does not fit, {first.summary()} agree, first misfit "
            f"G.{first.misfits[0]}; leave out the options that set its size, or choose another"
        )
    return reports
