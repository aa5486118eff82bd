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
    """

    part: str
    num_fitting: int = 0
    misfits: list[Misfit] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return lines for the log: layer pairs, then every misfit."""
        lines = [f"{self.part}.{own} initialized from {other}" for own, other in self.pairs]
        return lines + [f"{self.part}.{misfit}" for misfit in self.misfits]

    def summary(self) -> str:
        """Return text like `G 132 of 140 tensors`."""
        total = self.num_fitting + len(self.misfits)
        return f"{self.part} {self.num_fitting} of {total} tensors"


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


def transfer(part: str, own: nn.Module, other: nn.Module | None) -> TransferReport:
    """Copy every learned tensor of `other` that fits by name and shape into `own`."""
    report = TransferReport(part)
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
        if given is not None and given.shape == tensor.shape:
            found[name] = given
        else:
            shape = None if given is None else tuple(given.shape)
            report.misfits.append(Misfit(name, tuple(tensor.shape), shape))
    own.load_state_dict(found, strict=False)
    report.num_fitting = len(found)
    return report


def start_from(networks: Networks, G: Any, D: nn.Module, G_ema: nn.Module) -> list[TransferReport]:
    """Copy what fits of `networks` into G, D and G_ema.

    A file without G initializes both G and G_ema from its G_ema; without D, D stays random.
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
