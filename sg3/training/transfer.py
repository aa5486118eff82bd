"""Starting a run from another network's weights: what fits, what does not, and what was paired."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import torch
from torch import nn

from sg3.errors import UserError

NEAREST_OCTAVES = 0.5  # layers of two StyleGAN3s pair up when their cutoffs are that close
ENOUGH = 0.5  # share of the synthesis network's weights that must be filled to be called a fit
#: Fixed by the schedule or the run, never learned.
OWN = re.compile(r"(up_filter|down_filter|resample_filter|transform)$")


@dataclass(frozen=True)
class Misfit:
    """A tensor that keeps its random start."""

    name: str
    shape_here: tuple[int, ...]
    shape_there: tuple[int, ...] | None  # None: the network has no such tensor

    def __str__(self) -> str:
        there = "missing" if self.shape_there is None else list(self.shape_there)
        return f"{self.name}: here {list(self.shape_here)}, there {there}"


@dataclass
class TransferReport:
    """What became of every learned tensor of one network (`part` is G, D or G_ema)."""

    part: str
    num_fitting: int = 0
    misfits: list[Misfit] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)  # layers of unequal names

    def lines(self) -> list[str]:
        """For the log: the pairs, then every tensor that does not fit."""
        lines = [f"{self.part}.{own} starts as {other}" for own, other in self.pairs]
        return lines + [f"{self.part}.{misfit}" for misfit in self.misfits]

    def summary(self) -> str:
        """Like `G 132 of 140 tensors`."""
        total = self.num_fitting + len(self.misfits)
        return f"{self.part} {self.num_fitting} of {total} tensors"


def pair_layers(own: nn.Module, other: nn.Module) -> list[tuple[str, str]]:
    """Layers of two StyleGAN3 synthesis networks that treat the same frequencies, in order.

    Equal schedules pair by position. Otherwise every layer of `own` takes the layer of `other`
    with the nearest cutoff in cycles per image, each at most once, if it is within half an octave;
    the ToRGB layers belong to each other.
    """
    pairs, free = [], list(other.plans[:-1])
    for plan in own.plans[:-1]:
        distances = [abs(math.log2(p.target.cutoff / plan.target.cutoff)) for p in free]
        if not distances or min(distances) > NEAREST_OCTAVES:
            continue
        best = distances.index(min(distances))
        pairs.append((plan.name, free[best].name))
        free = free[best + 1 :]  # keeps the order
    return [*pairs, (own.plans[-1].name, other.plans[-1].name)]


def _renamed(own: nn.Module, other: nn.Module) -> list[tuple[str, str]]:
    """Pairs of layer names, empty if the networks name theirs alike."""
    if own.kind != "stylegan3" or other.kind != "stylegan3":
        return []
    if own.synthesis.layer_names == other.synthesis.layer_names:
        return []
    return pair_layers(own.synthesis, other.synthesis)


def transfer(part: str, own: nn.Module, other: nn.Module | None) -> TransferReport:
    """Copy into `own` every learned tensor of `other` that fits by name and shape."""
    report = TransferReport(part)
    source: dict[str, torch.Tensor] = {} if other is None else other.state_dict()
    there = {}
    if other is not None:
        report.pairs = _renamed(own, other)
        there = {f"synthesis.{a}": f"synthesis.{b}" for a, b in report.pairs}
    found = {}
    for name, tensor in own.state_dict().items():
        if OWN.search(name):
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


def start_from(networks, G: nn.Module, D: nn.Module, G_ema: nn.Module) -> list[TransferReport]:
    """Give G, D and G_ema what fits of an `sg3.Networks`. Raises UserError if too little does.

    A file without G gives its G_ema to both; one without D leaves D at its random start.
    """
    source = networks.G if networks.G is not None else networks.G_ema
    if source.kind != G.kind:
        raise UserError(
            f"--resume: the network is a {source.kind}, the run a {G.kind}; choose another --cfg"
        )
    reports = [
        transfer("G", G, source),
        transfer("D", D, networks.D),
        transfer("G_ema", G_ema, networks.G_ema),
    ]
    first = reports[0]
    misfits = {misfit.name for misfit in first.misfits}
    # A mapping network of the usual width fits any other, and alone is worth nothing.
    parameters = G.synthesis.named_parameters(prefix="synthesis")
    sizes = {name: parameter.numel() for name, parameter in parameters}
    filled = sum(size for name, size in sizes.items() if name not in misfits)
    if filled < ENOUGH * sum(sizes.values()):
        raise UserError(
            f"--resume: the network does not fit, {first.summary()} agree, first misfit "
            f"G.{first.misfits[0]}; leave out the options that set its size, or choose another"
        )
    return reports
