"""Evaluate a generator by the name of a metric, in one or many processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sg3.data.base import TrainingImages
from sg3.distributed.team import Team
from sg3.metrics import equivariance
from sg3.metrics.cmmd import gaussian_discrepancy
from sg3.metrics.detectors import InceptionFeatures
from sg3.metrics.features import (
    FeatureNetwork,
    PerceptualDistance,
    load_features,
    load_perceptual_distance,
)
from sg3.metrics.frechet import frechet_from_statistics
from sg3.metrics.inception_score import inception_score
from sg3.metrics.kid import kernel_distance
from sg3.metrics.path_length import path_lengths, trimmed_mean
from sg3.metrics.precision_recall import precision_recall
from sg3.metrics.real import FeatureCache, choose_real_images
from sg3.metrics.registry import Metric, parse_name
from sg3.metrics.sampling import generated_images, in_batches, real_images
from sg3.metrics.statistics import AllFeatures, Moments, Progress, collect, precise_device
from sg3.progress import ImageBar
from sg3.system import peak_memory_bytes

EQUIVARIANCE = ("eqt_int", "eqt_frac", "eqr")


def evaluate(
    name: str,
    G_ema: torch.nn.Module,
    dataset: TrainingImages | None,
    *,
    team: Team | None = None,
    features: str | FeatureNetwork | PerceptualDistance | None = None,
    batch: int = 64,
    seed: int = 0,
    progress: bool | Progress = False,
) -> dict[str, Any]:
    """Compute a metric of `G_ema` on the device where it is.

    Args:
        name: name of the metric; see `sg3.metrics.registry`.
        G_ema: the generator.
        dataset: real images and labels. None for metrics that need neither.
        team: processes that compute the metric together. All call this function with the same
            arguments and get the same result. None: this process alone.
        features: replaces the official feature network (or perceptual distance) if the name has
            none: a name for `load_features` (`load_perceptual_distance`), or an object.
        batch: images per pass of the feature network.
        seed: random seed.
        progress: True shows a progress bar; a function is called with the stage, and how many of
            how many images are done.

    Neither `batch` nor the number of processes changes the result beyond rounding.

    Returns:
        A dictionary: "results" (value by name), "metric", "features" (the network's name),
        "num_real" (0 without real images), "num_generated", "total_time" in seconds, "num_gpus"
        (processes) and "peak_memory_mb" of this process ("cpu": resident since its start,
        "cuda": allocated).

    Raises ValueError for an unknown name, data that does not fit the generator, or features that
    cannot be loaded.
    """
    started, team = time.time(), team or Team()
    metric = parse_name(name, features if isinstance(features, str) else None)
    check_fit(metric, G_ema, dataset)
    with ImageBar(name, progress is True, terminal_only=False) as bar:
        report = progress if callable(progress) else bar.update
        run = _Run(metric, G_ema, dataset, team, batch, seed, report)
        network, network_name = run.load(features)
        found = run.compute(network)
    full_name = metric.name(network_name)
    return {
        "results": {full_name + suffix: value for suffix, value in found.values.items()},
        "metric": full_name,
        "features": network_name,
        "num_real": found.num_real,
        "num_generated": metric.num,
        "total_time": round(time.time() - started, 3),
        "num_gpus": team.size,
        "peak_memory_mb": peak_memory_mb(run.device),
    }


def peak_memory_mb(device: torch.device) -> dict[str, int]:
    """Return this process's peak memory: resident ("cpu"), and allocated on a GPU ("cuda")."""
    found = {"cpu": round(peak_memory_bytes() / 2**20)}
    if device.type == "cuda":
        found["cuda"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found


def check_fit(metric: Metric, G: Any, dataset: TrainingImages | None) -> None:
    """Raise ValueError unless `G` and `dataset` fit each other and the metric."""
    if metric.kind in EQUIVARIANCE:
        equivariance.check_movable(G)
    if dataset is None:
        if metric.needs_real_images or G.c_dim:
            need = "real images" if metric.needs_real_images else "labels for this network"
            raise ValueError(f"metrics: {metric.name(metric.features)} needs {need}; set `data`")
        return
    shape = (G.img_channels, G.img_height, G.img_width)
    if metric.needs_real_images and tuple(dataset.image_shape) != shape:
        c, h, w = dataset.image_shape
        raise ValueError(
            f"data: images are {w}x{h} with {c} channels, but this network generates {shape[2]}x"
            f"{shape[1]} with {shape[0]}; prepare them with: sg3 dataset"
        )
    if G.c_dim and dataset.label_dim != G.c_dim:
        raise ValueError(
            f"data: labels have {dataset.label_dim} dimensions, but this network needs {G.c_dim}"
        )


@dataclass(frozen=True)
class Found:
    """Values by the suffix of the metric's name, and the number of real images."""

    values: dict[str, float]
    num_real: int = 0


@dataclass(frozen=True)
class _Run:
    """One evaluation."""

    metric: Metric
    G: Any
    dataset: TrainingImages | None
    team: Team
    batch: int
    seed: int
    progress: Progress

    @property
    def device(self) -> torch.device:
        return next(self.G.parameters()).device

    def load(
        self, features: str | FeatureNetwork | PerceptualDistance | None
    ) -> tuple[Any, str | None]:
        """Return the network that the metric needs, and its name in results; None without one."""
        spec = self.metric.features
        if spec is None:
            return None, None
        if features is not None and not isinstance(features, str):
            return features, features.name
        if self.metric.kind.startswith("ppl"):
            return load_perceptual_distance(spec, self.device), spec
        network = load_features(spec, self.device)
        return network, network.name

    def compute(self, network: Any) -> Found:
        """Compute the metric with the network from `load`."""
        if self.metric.kind in EQUIVARIANCE:
            return self.equivariance()
        if self.metric.kind.startswith("ppl"):
            return self.path_length(network)
        return self.compare(network)

    def compare(self, network: FeatureNetwork) -> Found:
        """Compute a metric of features."""
        if self.metric.kind == "is":
            return self._inception_score(network)
        keep = Moments if self.metric.kind == "fid" else AllFeatures
        real = self._real(network, keep)
        fake = self._generated(network, network.dim, keep)
        num_real = int(real.pop("num"))
        if self.metric.kind == "fid":
            statistics = (x[k].numpy() for x in (fake, real) for k in ("mean", "covariance"))
            return Found({"": frechet_from_statistics(*statistics)}, num_real)
        pair = real["features"], fake["features"]
        if self.metric.kind == "cmmd":
            return Found(
                {"": gaussian_discrepancy(*pair, device=precise_device(self.device))}, num_real
            )
        if self.metric.kind == "kid":
            return Found({"": kernel_distance(*pair, device=self.device)}, num_real)
        precision, recall = precision_recall(*pair, self.metric.neighbour, device=self.device)
        return Found({"_precision": precision, "_recall": recall}, num_real)

    def _inception_score(self, network: FeatureNetwork) -> Found:
        if not isinstance(network, InceptionFeatures):
            raise ValueError(f"metrics: is needs the classes of Inception, got {network.name}")
        found = self._generated(network.probabilities, network.num_classes, AllFeatures)
        mean, std = inception_score(found["features"])
        return Found({"_mean": mean, "_std": std})

    def _generated(
        self, function: Callable, dim: int, keep: type[Moments] | type[AllFeatures]
    ) -> dict[str, torch.Tensor]:
        num, team = self.metric.num, self.team
        source = generated_images(self.G, self.dataset, num, self.seed, team.rank, team.size)
        into = keep(dim, num, self.device)
        batches = in_batches(source, self.batch)
        return collect("generated images", batches, function, into, team, num, self.progress)

    def _real(
        self, network: FeatureNetwork, keep: type[Moments] | type[AllFeatures]
    ) -> dict[str, torch.Tensor]:
        team = self.team
        assert self.dataset is not None  # see check_fit
        images = choose_real_images(self.dataset, self.metric.full, self.metric.max_real)

        def compute() -> dict[str, torch.Tensor]:
            dataset, num = images.open_and_count()
            source = real_images(dataset, num, self.batch, team.rank, team.size)
            into = keep(network.dim, num, self.device)
            found = collect("real images", source, network, into, team, num, self.progress)
            return {**found, "num": torch.tensor(num)}

        return FeatureCache(images, network, keep.__name__, self.device).get(compute, team)

    def path_length(self, distance: PerceptualDistance) -> Found:
        """Compute the perceptual path length."""
        num, team, (_, variant) = self.metric.num, self.team, self.metric.kind.split("_")
        # Paths of other processes stay 0 here, so that a sum collects them all.
        values = torch.zeros([num], dtype=torch.float64, device=precise_device(self.device))
        done, total = 0, -(-num // team.size)
        settings = (num, self.seed, variant[0], variant[1:], team.rank, team.size)
        for rows, some in path_lengths(self.G, distance, self.dataset, *settings):
            values[torch.from_numpy(rows)] = some.to(values.device)
            done += len(rows)
            self.progress("paths", min(done, total), total)
        values = team.sum_(values).cpu()
        if not bool(values.isfinite().all()):
            raise ValueError("metrics: path lengths contain NaN or infinity")
        return Found({"": trimmed_mean(values.numpy())})

    def equivariance(self) -> Found:
        """Compute the PSNR under transforms of the input."""
        num, team = self.metric.num, self.team
        sums = torch.zeros([2], dtype=torch.float64, device=precise_device(self.device))
        done, total = 0, -(-num // team.size)
        for draw in equivariance.draws(self.G, self.dataset, num, self.seed, team.rank, team.size):
            sums += equivariance.squared_errors(self.G, draw, self.metric.kind)
            done += len(draw.z)
            self.progress("transformed images", min(done, total), total)
        error, count = team.sum_(sums).tolist()
        # Not `error >= inf`, which is false for NaN.
        if not error < float("inf"):
            raise ValueError("metrics: generated images contain NaN or infinity")
        return Found({"": equivariance.psnr(error, count)})


def write_result(result: dict, folder: str | Path, snapshot: str | None = None) -> Path:
    """Append a result to `metric-NAME.jsonl`, the format of the official tools.

    Args:
        result: returned by `evaluate`.
        folder: existing folder.
        snapshot: file of the network.

    Returns the path of the file. With several processes, only one may call this.
    """
    path = Path(folder) / f"metric-{result['metric']}.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**result, "snapshot": snapshot, "timestamp": time.time()}) + "\n")
    return path
