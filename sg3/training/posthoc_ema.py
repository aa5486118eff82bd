"""Post-hoc EMA: averages of G stored with the snapshots of a run, and a network of any EMA length.

A file `ema-KIMG.safetensors` has the first average as `average.NAME`, the differences of the others
from it as `difference.INDEX.NAME` in half precision, G's buffers as `buffers.NAME`, and as metadata
the lengths, the number of images and G's arguments.
REFERENCE.md §4.13; `sg3.training.power_ema` has the mathematics.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sg3.checkpoints.networks import Networks, assemble
from sg3.checkpoints.safetensors_io import as_stored, json_object
from sg3.data import open_dataset
from sg3.errors import DAMAGE, UserError
from sg3.files import parse_json, read_metadata, read_tensors, write_tensors
from sg3.metrics import check_names, evaluate
from sg3.metrics.registry import higher_is_better
from sg3.training.power_ema import Profile, gamma_of, solve_weights
from sg3.training.trainer import Trainer

FORMAT, VERSION = "sg3-power-ema", "1"
#: Relative distance of profiles from which the result is called an approximation.
MAX_ERROR = 0.05


def write_averages(path: Path, trainer: Trainer) -> None:
    """Write the power-function averages of a trainer and G's buffers, atomically."""
    G, ema = trainer.G, trainer.power_ema
    first, *others = ema.averages
    tensors = {f"buffers.{name}": buffer for name, buffer in G.named_buffers()}
    tensors |= {f"average.{name}": tensor for name, tensor in first.items()}
    for index, average in enumerate(others, 1):
        for name, tensor in average.items():
            # Solutions subtract averages that are almost equal: half precision is enough for their
            # differences, but not for the averages (docs/LOG.md).
            difference = as_stored(name, tensor - first[name], fp16=True)
            tensors[f"difference.{index}.{name}"] = difference
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "images": str(trainer.cur_nimg),
        "lengths": json.dumps(ema.lengths),
        "network": json.dumps({"kind": G.kind, "kwargs": G.init_kwargs}),
    }
    write_tensors(path, tensors, metadata)


@dataclass(frozen=True)
class StoredAverages:
    """What a file of averages says about itself.

    Attributes:
        path: the file.
        nimg: images shown so far.
        lengths: EMA lengths (`sigma_rel`) of its averages.
        network: kind and constructor arguments of G.
    """

    path: Path
    nimg: int
    lengths: tuple[float, ...]
    network: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> StoredAverages:
        """Read the metadata. Raises ValueError for a damaged file, and for another program's."""
        metadata = read_metadata(path, "averages")
        network = json_object(metadata, "network")
        try:
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                raise ValueError
            lengths = tuple(float(length) for length in parse_json(metadata["lengths"]))
            return cls(path, int(metadata["images"]), lengths, network)
        except (ValueError, *DAMAGE):
            raise UserError(
                f"averages {path}: expected format {FORMAT!r} {VERSION}; move the file away"
            ) from None

    def profiles(self) -> list[Profile]:
        """Return the profiles of the averages."""
        return [Profile(gamma_of(length), self.nimg) for length in self.lengths]


def stored_averages(run: str | os.PathLike) -> list[StoredAverages]:
    """Return the averages in a run's folder, oldest first.

    Raises ValueError if there are none, or if they belong to different networks.
    """
    paths = sorted(Path(run).glob("ema-*.safetensors"))
    if not paths:
        raise UserError(
            f"run: got {os.fspath(run)!r}, expected the folder of a run trained with posthoc_ema, "
            "which has files ema-KIMG.safetensors"
        )
    found = sorted((StoredAverages.open(path) for path in paths), key=lambda file: file.nimg)
    for file in found:
        if file.network != found[0].network:
            raise UserError(
                f"averages {file.path}: of another network than {found[0].path.name}; move one away"
            )
    return found


def rebuild_ema(
    run: str | os.PathLike | Sequence[StoredAverages], length: float, at_kimg: float | None = None
) -> Networks:
    """Return G with the average of any EMA length, from the averages that a run has stored.

    Args:
        run: folder of the run, or the result of `stored_averages`.
        length: EMA length (`sigma_rel`): standard deviation of the weights over time, divided by
            the time. Above 0, below 0.2887.
        at_kimg: end of the average in kimg; None: the newest file.

    Returns:
        Networks with `G_ema` alone. Its buffers are those of the newest file up to `at_kimg`.
        `meta` has `sigma_rel`, `gamma`, `kimg`, `files`, and `profile_error`: the distance of the
        weights over time from the wanted ones, divided by the norm of these.

    Raises ValueError for a length or time out of range, and for missing or damaged files.
    """
    gamma = gamma_of(length)
    files = stored_averages(run) if isinstance(run, (str, os.PathLike)) else list(run)
    first, last = files[0].nimg, files[-1].nimg
    nimg = last if at_kimg is None else at_kimg * 1000
    if not first <= nimg <= last:
        raise UserError(
            f"at_kimg: got {at_kimg:g}, expected {first / 1000:g} to {last / 1000:g}, where "
            "averages were stored"
        )
    profiles = [profile for file in files for profile in file.profiles()]
    weights, error = solve_weights(profiles, Profile(gamma, nimg))
    newest = [file.nimg <= nimg for file in files].count(True) - 1
    tensors = _combine(files, weights, newest)
    spec = files[0].network
    G = assemble("G_ema", str(spec.get("kind")), dict(spec.get("kwargs") or {}), tensors)
    meta = {
        "command": "sg3 ema",
        "sigma_rel": length,
        "gamma": gamma,
        "kimg": nimg / 1000,
        "files": len(files),
        "profile_error": error,
    }
    return Networks(G_ema=G, meta=meta)


@dataclass(frozen=True)
class SweepStep:
    """A length that was evaluated.

    Attributes:
        networks: result of `rebuild_ema`.
        record: result of `evaluate`, with `sigma_rel` and `at_kimg`.
    """

    networks: Networks
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the metric's first value."""
        return next(iter(self.record["results"]))

    @property
    def value(self) -> float:
        """The metric's first value."""
        return self.record["results"][self.name]


def sweep_lengths(
    run: str | os.PathLike,
    lengths: Sequence[float],
    metric: str,
    data: dict[str, Any] | None,
    at_kimg: float | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[SweepStep]:
    """Evaluate a metric for several EMA lengths, yielding each.

    Args:
        run: folder of the run.
        lengths: as for `rebuild_ema`.
        metric: name of a metric (`sg3.metrics.registry`).
        data: real images, as keyword arguments of `open_dataset`; None if the metric needs none.
        at_kimg: as for `rebuild_ema`.
        seed: random seed of the metric.
        device: where to evaluate.

    Raises ValueError like `rebuild_ema` and `evaluate`; for wrong lengths or names at once.
    """
    check_names([metric])
    if not lengths:
        raise UserError("lengths: got none, expected EMA lengths like 0.05,0.1")
    for length in lengths:
        gamma_of(length)
    files = stored_averages(run)
    dataset = None
    for length in lengths:
        networks = rebuild_ema(files, length, at_kimg).to(device)
        if dataset is None and data is not None:
            dataset = open_dataset(**data, use_labels=networks.G_ema.c_dim > 0)
        result = evaluate(metric, networks.G_ema, dataset, seed=seed)
        yield SweepStep(networks, {**result, "sigma_rel": length, "at_kimg": networks.meta["kimg"]})


def best_step(steps: Sequence[SweepStep]) -> SweepStep:
    """Return the step with the best value (`metrics.registry.HIGHER_IS_BETTER`)."""
    choose = max if higher_is_better(steps[0].record["metric"]) else min
    return choose(steps, key=lambda step: step.value)


def _combine(
    files: Sequence[StoredAverages], weights: np.ndarray, newest: int
) -> dict[str, torch.Tensor]:
    """Return the state dict: averages summed in float64, buffers of file number `newest`."""
    sums: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    todo = iter(weights.tolist())
    for number, file in enumerate(files):
        tensors, _ = read_tensors(file.path, "averages")
        if number == newest:
            buffers = _part(tensors, "buffers.")
        of_file = [next(todo) for _ in file.lengths]
        terms = [(sum(of_file), _part(tensors, "average."))]
        for index, weight in enumerate(of_file[1:], 1):
            terms.append((weight, _part(tensors, f"difference.{index}.")))
        for weight, part in terms:
            for name, tensor in part.items():
                term = tensor.to(torch.float64).mul_(weight)
                sums[name] = sums[name].add_(term) if name in sums else term
    return {name: tensor.to(torch.float32) for name, tensor in sums.items()} | buffers


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
